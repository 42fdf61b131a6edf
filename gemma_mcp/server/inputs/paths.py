"""Which files may be read: one policy for text files and images, the only place that opens what a caller named.

A path passes small steps, each of which lets it pass or refuses it with the reason: its letters
(`path_forms`), where links lead, the roots, names of secrets (`secret_names`), and, once it is open, its kind and size.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.places import is_unset
from gemma_mcp.server.inputs.path_forms import printable, refuse_form, shorten
from gemma_mcp.server.inputs.secret_names import SecretNames
from gemma_mcp.settings import ServerSettings

__all__ = ["Located", "OpenedFile", "PathPolicy", "project_root", "reason"]

PROJECT_VARIABLE = "CLAUDE_PROJECT_DIR"
"""Set by Claude Code for the servers it starts."""

OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""A fifo must not block us, and a link that appeared after the checks is not followed."""


def project_root(configured: str, environ: Mapping[str, str], working: Path) -> Path:
    """The folder that files are read from: the configured one, else the client's project, else the working folder."""
    client = environ.get(PROJECT_VARIABLE, "")
    chosen = configured or ("" if is_unset(client) else client)
    return Path(chosen).expanduser() if chosen else working


@dataclass(frozen=True)
class OpenedFile:
    """A file's bytes and its name: its path below the project folder, or the whole path in a further root."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Located:
    """A path that passed the policy: where it really is, in which root, and what to call it."""

    real: Path
    root: Path
    name: str


@dataclass(frozen=True)
class PathPolicy:
    """Files inside `root` and `further` roots may be read, wherever links lead inside them; nothing outside may.

    Relative paths are relative to `root`, the project folder; files in further roots are named by whole paths.
    """

    root: Path
    further: tuple[Path, ...] = ()
    secrets: SecretNames = field(default_factory=SecretNames)

    @classmethod
    def configured(cls, settings: ServerSettings, project: Path) -> "PathPolicy":
        """The policy of the configuration for one project folder; further roots may be relative to it."""
        further = tuple(project / Path(folder).expanduser() for folder in settings.roots)
        return cls(project, further, SecretNames(settings.deny, settings.allow_secrets))

    def exists(self, path: str) -> bool:
        """Whether `path` names something that may be read."""
        try:
            self.locate(path)
        except InputRefusedError:
            return False
        return True

    def read(self, path: str, max_bytes: int) -> OpenedFile:
        """The whole file. Blocks; raises InputRefusedError with the reason for every refusal."""
        located = self.locate(path)
        return OpenedFile(located.name, _read_regular(shorten(path), located.real, max_bytes))

    def locate(self, path: str) -> Located:
        """All steps but opening. Raises InputRefusedError."""
        located = self.find(path)
        if located is None:
            raise InputRefusedError(
                shorten(path), "there is no such file in the project folder", f"Paths are relative to {self.project()}."
            )
        return located

    def find(self, path: str) -> Located | None:
        """As `locate`, but None for what would be allowed and is not there."""
        refuse_form(path)
        project = self.project()
        self._refuse_secret(path, Path(os.path.normpath(project / path)))
        try:
            real = (project / path).resolve(strict=True)
        except FileNotFoundError:
            return self._missing(path, project)
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a loop of links, no permission
            raise InputRefusedError(shorten(path), reason(error), "Check the path.") from None
        located = self._within(path, real)
        self._refuse_secret(path, located.real)
        return located

    def project(self) -> Path:
        """The project folder, without links. Raises InputRefusedError when there is none."""
        try:
            return self.root.resolve(strict=True)
        except OSError:
            raise InputRefusedError(
                str(self.root), "the project folder does not exist", "server.root in the configuration names another."
            ) from None

    def roots(self) -> tuple[Path, ...]:
        """The project folder and the further roots that exist, without links."""
        return (self.project(), *(root.resolve() for root in self.further if root.is_dir()))

    def _within(self, path: str, real: Path) -> Located:
        for root in self.roots():
            if real.is_relative_to(root):
                return Located(real, root, self._name(real, root))
        raise self._outside(path)

    def _missing(self, path: str, project: Path) -> None:
        """Outside the roots the answer is the same whether a file exists there or not."""
        try:
            real = (project / path).resolve()
        except (OSError, RuntimeError):
            raise self._outside(path) from None
        self._within(path, real)

    def _outside(self, path: str) -> InputRefusedError:
        roots = " and ".join(str(root) for root in self.roots())
        hint = f"Only files in {roots} are read; server.roots in the configuration allows further folders."
        return InputRefusedError(shorten(path), "it lies outside the project folder", hint)

    def _name(self, real: Path, root: Path) -> str:
        return printable(real.relative_to(root).as_posix() if root == self.project() else real.as_posix())

    def _refuse_secret(self, path: str, where: Path) -> None:
        if self.is_secret(where):
            raise InputRefusedError(
                shorten(path),
                "by its name it holds secrets",
                "Do without it, or have the user allow it: server.deny = ['!name'] in the configuration.",
            )

    def is_secret(self, where: Path) -> bool:
        """Whether the path, seen from one of the roots, has a secret's name."""
        return any(
            self.secrets.match(where.relative_to(root).as_posix())
            for root in self.roots()
            if where != root and where.is_relative_to(root)
        )


def reason(error: BaseException) -> str:
    """Why the file system would not, in words."""
    text = error.strerror if isinstance(error, OSError) else None
    return (text or "it is not a valid path").lower()


def _read_regular(shown: str, real: Path, max_bytes: int) -> bytes:
    if real.is_dir():
        raise InputRefusedError(shown, "it is a folder", "Name the files in it, or a pattern such as 'folder/*.py'.")
    try:
        descriptor = os.open(real, OPEN_FLAGS)
    except OSError as error:
        raise InputRefusedError(shown, reason(error), "Check what it is and who may read it.") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputRefusedError(shown, "it is not a regular file", "Devices, pipes and sockets are not read.")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        size = max(status.st_size, len(data))
        why = f"it has {size:,} bytes, more than the {max_bytes:,} that are allowed"
        raise InputRefusedError(shown, why, "Name a smaller one, or raise the limit in the configuration.")
    return data
