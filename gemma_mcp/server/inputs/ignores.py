"""What .gitignore files leave out: those of the folder, of the folders below it, and of the repository above it."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["Ignores"]

LARGEST_BYTES = 1_000_000
"""Of a .gitignore; nobody writes larger ones."""


@dataclass(frozen=True)
class Rules:
    """The patterns of one .gitignore and the folder that they are relative to."""

    folder: Path
    spec: "GitIgnoreSpec"

    def verdict(self, path: Path, folder: bool) -> bool | None:
        """Whether the path is left out; None when no pattern is about it."""
        relative = path.relative_to(self.folder).as_posix()
        return self.spec.check_file(relative + "/" if folder else relative).include


@dataclass(frozen=True)
class Ignores:
    """The rules that hold in a folder; the innermost come first and win."""

    rules: tuple[Rules, ...] = ()

    @classmethod
    def of(cls, root: Path) -> "Ignores":
        """The rules of `root` and of the folders above it up to the top of its repository, if it is in one.

        Those above do not hold for a project that they leave out as a whole: it is none of that repository's.
        """
        rules = cls()
        for folder in reversed(_up_to_repository(root)[1:]):
            rules = rules.entered(folder)
        return (cls() if rules.ignores(root, folder=True) else rules).entered(root)

    def entered(self, folder: Path) -> "Ignores":
        """The rules inside `folder`, a folder of the one that these rules hold in."""
        text = _read(folder / ".gitignore")
        if not text.strip():
            return self
        from pathspec import GitIgnoreSpec

        return Ignores((Rules(folder, GitIgnoreSpec.from_lines(text.split("\n"))), *self.rules))

    def ignores(self, path: Path, *, folder: bool) -> bool:
        """Whether a file or a folder is left out."""
        verdicts = (rules.verdict(path, folder) for rules in self.rules)
        return next((verdict for verdict in verdicts if verdict is not None), False)


def _up_to_repository(root: Path) -> list[Path]:
    """`root`, and what is above it when that belongs to one repository with it."""
    above: list[Path] = []
    for folder in _and_parents(root):
        above.append(folder)
        if (folder / ".git").exists():
            return above
    return [root]


def _and_parents(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _read(path: Path) -> str:
    """A .gitignore's text without its byte order mark; empty for what is none, since git takes no offence either."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_BYTES:
            return ""
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""
