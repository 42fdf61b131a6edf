"""Which files may be read: one policy for text files and images, the only place that opens what a caller named.

The checks are a list of steps, each of which refuses or lets pass; further rules (deny-lists, .gitignore) are further
steps.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemma_mcp.errors import InputRefusedError

__all__ = ["OpenedFile", "PathPolicy", "project_root"]

PROJECT_VARIABLE = "CLAUDE_PROJECT_DIR"
"""Set by Claude Code for the servers it starts."""

SHOWN_PATH = 200
"""Characters of a path that an error repeats; a caller may have sent megabytes."""

OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""A fifo must not block us, and a link that appeared after the checks is not followed."""


def project_root(configured: str, environ: Mapping[str, str], working: Path) -> Path:
    """The folder that files are read from: the configured one, else the client's project, else the working folder."""
    client = environ.get(PROJECT_VARIABLE, "")
    chosen = configured or ("" if client.startswith("${") else client)
    return Path(chosen).expanduser() if chosen else working


@dataclass(frozen=True)
class OpenedFile:
    """A file's bytes and its path below the project folder, with forward slashes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class PathPolicy:
    """Files inside `root` may be read, wherever links lead inside it; nothing outside may."""

    root: Path

    def exists(self, path: str) -> bool:
        """Whether `path` names something inside the project folder."""
        try:
            self._resolve(path)
        except InputRefusedError:
            return False
        return True

    def read(self, path: str, max_bytes: int) -> OpenedFile:
        """The whole file. Blocks; raises InputRefusedError with the reason for every refusal."""
        real = self._resolve(path)
        return OpenedFile(self._name(real), _read_regular(path, real, max_bytes))

    def _resolve(self, path: str) -> Path:
        shown = shorten(path)
        if not path.strip():
            raise InputRefusedError("''", "an empty path", "Name a file in the project folder.")
        try:
            root = self.root.resolve(strict=True)
        except OSError:
            raise InputRefusedError(shown, f"the project folder {str(self.root)!r} does not exist") from None
        try:
            real = (root / path).resolve(strict=True)
        except FileNotFoundError:
            raise self._missing(root, path) from None
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, a loop of links, no permission
            raise InputRefusedError(shown, _reason(error)) from None
        if not real.is_relative_to(root):
            raise _outside(shown, root)
        return real

    def _missing(self, root: Path, path: str) -> InputRefusedError:
        """Outside the folder the answer is the same whether a file exists there or not."""
        try:
            real = (root / path).resolve()
        except (OSError, RuntimeError) as error:  # a loop of links behind what is missing
            return InputRefusedError(shorten(path), _reason(error))
        if not real.is_relative_to(root):
            return _outside(shorten(path), root)
        return InputRefusedError(
            shorten(path), "there is no such file in the project folder", f"Paths are relative to {root}."
        )

    def _name(self, real: Path) -> str:
        return real.relative_to(self.root.resolve()).as_posix()


def shorten(path: str) -> str:
    """A path as errors show it."""
    return path if len(path) <= SHOWN_PATH else path[:SHOWN_PATH] + "…"


def _outside(shown: str, root: Path) -> InputRefusedError:
    hint = f"Only files in {root} are read; server.root in the configuration names another folder."
    return InputRefusedError(shown, "it lies outside the project folder", hint)


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or "it is not a valid path").lower()


def _read_regular(shown: str, real: Path, max_bytes: int) -> bytes:
    shown = shorten(shown)
    if real.is_dir():
        raise InputRefusedError(shown, "it is a folder", "Name the files in it.")
    try:
        descriptor = os.open(real, OPEN_FLAGS)
    except OSError as error:
        raise InputRefusedError(shown, _reason(error)) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputRefusedError(shown, "it is not a regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        size = max(status.st_size, len(data))
        raise InputRefusedError(shown, f"it has {size:,} bytes, more than the {max_bytes:,} that are allowed")
    return data
