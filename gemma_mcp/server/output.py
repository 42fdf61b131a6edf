"""Replies that go to a file: checked before any model works, written whole or not at all.

Only below the project folder, into a folder that exists, never into hidden ones (.git, .ssh, settings of editors and
clients: what lies there is run or obeyed), never through a link, never under a secret's name.
"""

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.path_forms import printable, refuse_form, shorten
from gemma_mcp.server.inputs.paths import PathPolicy, reason

__all__ = ["OutputFile", "OutputFolder"]

CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

LINES_SHOWN = 5
CHARACTERS_SHOWN = 400
"""Of what was written, in the digest that comes back instead."""


@dataclass(frozen=True)
class OutputFolder:
    """The project folder as a place to write to."""

    policy: PathPolicy

    async def file(self, path: str, *, overwrite: bool) -> "OutputFile":
        """A file that may be written. Raises InputRefusedError with the reason."""
        file = OutputFile(self.policy, path, overwrite)
        await anyio.to_thread.run_sync(file.locate)
        return file


@dataclass(frozen=True)
class OutputFile:
    """A path that a caller named for a reply."""

    policy: PathPolicy
    path: str
    overwrite: bool

    async def write(self, text: str, tokens: int | None) -> str:
        """Write the text and return a digest of it. Raises InputRefusedError; then nothing was written."""
        return await anyio.to_thread.run_sync(partial(self._write, text, tokens))

    def locate(self) -> Path:
        """Where it will be, looked up again for every use: the disk may have changed."""
        refuse_form(self.path)
        project = self.policy.project()
        parent = self._parent(project)
        target = parent / Path(os.path.normpath(project / self.path)).name
        self._refuse_place(target, project)
        self._refuse_existing(target)
        return target

    def _parent(self, project: Path) -> Path:
        try:
            parent = Path(os.path.normpath(project / self.path)).parent.resolve(strict=True)
        except (OSError, RuntimeError):
            parent = None
        if parent is None or not parent.is_relative_to(project) or not parent.is_dir():
            hint = f"Name a file in {project} or in a folder there that exists."
            raise self._refused("its folder does not exist in the project folder", hint)
        return parent

    def _refuse_place(self, target: Path, project: Path) -> None:
        if target == project or not target.is_relative_to(project):
            raise self._refused("it is not a file in the project folder", "Name a file.")
        if any(part.startswith(".") for part in target.relative_to(project).parts):
            raise self._refused("hidden files and folders are not written to", "Choose a name without a leading dot.")
        if self.policy.is_secret(target):
            raise self._refused("its name is one of a file with secrets", "Choose another name.")

    def _refuse_existing(self, target: Path) -> None:
        try:
            mode = target.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused(reason(error), "Check the path.") from None
        if not stat.S_ISREG(mode):
            raise self._refused("something that is not a file is there", "Choose another name.")
        if not self.overwrite:
            raise self._refused("it exists already", "Choose another name, or have it replaced if that is offered.")

    def _write(self, text: str, tokens: int | None) -> str:
        data = text.encode("utf-8")
        target = self.locate()
        beside = target.with_name(f"gemma-{secrets.token_hex(8)}.tmp")
        try:
            try:
                _create(beside, data)
                self._put(beside, target, data)
            finally:
                beside.unlink(missing_ok=True)
        except FileExistsError:
            raise self._refused("it exists already", "Choose another name.") from None
        except OSError as error:
            raise self._refused(reason(error), "Check the disk and who may write there.") from error
        return _digest(printable(target.relative_to(self.policy.project()).as_posix()), text, len(data), tokens)

    def _put(self, beside: Path, target: Path, data: bytes) -> None:
        """Give the finished file its name in one step. A link, or Windows' rename, never replaces anything."""
        if self.overwrite:
            beside.replace(target)
        elif os.name == "nt":
            beside.rename(target)
        else:
            _link(beside, target, lambda: _create(target, data))

    def _refused(self, why: str, hint: str) -> InputRefusedError:
        return InputRefusedError(shorten(self.path), why, hint)


def _create(path: Path, data: bytes) -> None:
    """A new file with all of the data, or none. Raises OSError."""
    descriptor = os.open(path, CREATE_FLAGS, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # a full disk holds half of it
        raise


def _link(beside: Path, target: Path, otherwise: Callable[[], None]) -> None:
    """Some file systems have no hard links."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise
    except OSError:
        otherwise()


def _digest(name: str, text: str, size: int, tokens: int | None) -> str:
    lines = text.splitlines()
    counts = f"{size:,} bytes, {len(lines):,} lines" + (f", {tokens:,} tokens" if tokens is not None else "")
    begins = "\n".join(lines[:LINES_SHOWN])
    shown = begins if len(begins) <= CHARACTERS_SHOWN else begins[:CHARACTERS_SHOWN] + "…"
    head = "It begins:" if shown != text.rstrip("\r\n") else "All of it:"
    return f"The reply was written to {name} ({counts}). {head}\n{shown}"
