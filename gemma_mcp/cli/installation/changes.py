"""A change of one file: planned first, then shown or made; with a backup, whole or not at all, and undone exactly."""

import contextlib
import difflib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gemma_mcp.cli.installation.documents import Document
from gemma_mcp.errors import ConfigError

__all__ = ["Change", "apply", "back_up", "difference", "plan_entry", "plan_removal", "read"]

BACKUP = ".gemma-mcp-{stamp}.bak"
MARK = "\ufeff"


@dataclass(frozen=True)
class Change:
    """What a file holds and shall hold; None where there is no file. `undone` is the backup that it becomes again."""

    path: Path
    before: str | None
    after: str | None
    undone: Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.before == self.after


def plan_entry(path: Path, document: Document, name: str, entry: Mapping[str, Any], *, replace: bool) -> Change:
    """The file with the entry. Raises ConfigError for a file that is broken, and for another entry of that name."""
    before = read(path)
    found = document.entry(path, _unmarked(before), name)
    if found == entry:
        return Change(path, before, before)
    if found is not None and not replace:
        hint = "--force replaces it; --name gives the new one another name."
        raise ConfigError(str(path), name, "another entry of this name is there", hint)
    return Change(path, before, _with_entry(path, document, name, entry, before))


def plan_removal(path: Path, document: Document, name: str) -> Change:
    """The file without the entry: byte for byte what it was, if nothing else has changed since."""
    before = read(path)
    text = _unmarked(before)
    found = document.entry(path, text, name)
    if before is None or not isinstance(found, dict):
        return Change(path, before, before)
    entry = cast("dict[str, Any]", found)
    for backup in (*_backups(path), None):
        original = read(backup) if backup else None
        if _makes(path, document, name, entry, original, before):
            return Change(path, before, original, backup)
    marked = MARK if before.startswith(MARK) else ""
    return Change(path, before, marked + document.without_entry(path, text, name))


def apply(change: Change, *, private: bool) -> Path | None:
    """Make the change; where the backup is, if one was made. A new file is for the user alone if `private`.

    Raises ConfigError when the file has changed since it was read, and when it cannot be written.
    """
    real = change.path.resolve()
    try:
        if read(change.path) != change.before:
            raise ConfigError(str(change.path), "the whole", "another program has just changed it", "Try again.")
        if change.after is None:
            real.unlink()
            return None
        backup = None if change.undone else back_up(change.path)
        _write(real, change.after, private)
        if change.undone:
            change.undone.unlink()
    except OSError as error:
        raise ConfigError(str(change.path), "the whole", f"it cannot be written: {error.strerror}") from None
    return backup


def back_up(path: Path) -> Path | None:
    """Copy the file beside it, with its mode and times; None when there is no file."""
    real = path.resolve()
    if not real.exists():
        return None
    for number in range(1000):
        stamp = time.strftime("%Y%m%d-%H%M%S") + (f"-{number}" if number else "")
        backup = real.with_name(real.name + BACKUP.format(stamp=stamp))
        if not backup.exists():
            shutil.copy2(real, backup)
            return backup
    raise FileExistsError(0, "there are a thousand backups of this second", str(real))


def difference(change: Change) -> str:
    """The change as a unified diff."""
    before, after = (change.before or "").splitlines(True), (change.after or "").splitlines(True)
    ended = [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in _diff(change, before, after)
    ]
    return "".join(ended)


def _diff(change: Change, before: list[str], after: list[str]) -> Iterator[str]:
    old = str(change.path) if change.before is not None else os.devnull
    new = str(change.path) if change.after is not None else os.devnull
    return difflib.unified_diff(before, after, old, new)


def read(path: Path) -> str | None:
    """The text of a file with its line ends and its byte order mark; None when there is none. Raises ConfigError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, and a device must never be replaced
            raise ConfigError(str(path), "the whole", "it is not a regular file", "Mend the file first.")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "the whole", "it is not UTF-8", "Mend the file first.") from None
    except OSError as error:
        raise ConfigError(str(path), "the whole", f"it cannot be read: {error.strerror}") from None


def _makes(path: Path, document: Document, name: str, entry: Mapping[str, Any], original: str | None, now: str) -> bool:
    """Whether putting the entry into the original gives what is there now."""
    try:
        if document.entry(path, _unmarked(original), name) is not None:
            return False
        return _with_entry(path, document, name, entry, original) == now
    except ConfigError:
        return False


def _with_entry(path: Path, document: Document, name: str, entry: Mapping[str, Any], before: str | None) -> str:
    marked = MARK if before and before.startswith(MARK) else ""
    return marked + document.with_entry(path, _unmarked(before), name, entry)


def _unmarked(text: str | None) -> str:
    return (text or "").removeprefix(MARK)


def _backups(path: Path) -> list[Path]:
    """The newest first."""
    real = path.resolve()
    return sorted(real.parent.glob(real.name.replace("[", "[[]") + BACKUP.format(stamp="*")), reverse=True)


def _write(real: Path, text: str, private: bool) -> None:
    """Whole or not at all, with the mode that the file has."""
    real.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        if real.exists():
            shutil.copymode(real, temporary)
        elif not private:
            temporary.chmod(0o666 & ~_umask())
        temporary.replace(real)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
