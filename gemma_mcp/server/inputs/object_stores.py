"""Where the objects of a git repository really lie: links and alternates may lead into another repository's."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["store_elsewhere"]

FOLDERS = ("", "pack", "info")
"""Of a store, in which a link may stand for objects that are found without knowing their names."""


def store_elsewhere(store: Path, allowed: Sequence[Path]) -> Path | None:
    """The first place outside the `allowed` folders, without links themselves, that a store takes objects from."""
    seen: set[Path] = set()
    waiting = [store]
    while waiting:
        real = waiting.pop().resolve()
        if not any(real.is_relative_to(folder) for folder in allowed):
            return real
        if real not in seen:
            seen.add(real)
            waiting += _links(real)
            waiting += _alternates(real)
    return None


def _links(store: Path) -> Iterator[Path]:
    for name in FOLDERS:
        try:
            with os.scandir(store / name) as entries:
                yield from [Path(entry.path) for entry in entries if _may_be_link(entry)]
        except OSError:  # there is no such folder, or what a link leads to is a file
            continue


def _may_be_link(entry: os.DirEntry[str]) -> bool:
    """Junctions of Windows look like folders."""
    return entry.is_symlink() or (os.name == "nt" and entry.is_dir())


def _alternates(store: Path) -> Iterator[Path]:
    """Further stores, by the lines of `info/alternates`; a list that cannot be told is taken to lead anywhere."""
    path = store / "info" / "alternates"
    try:
        lines = os.fsdecode(path.read_bytes()).split("\n") if path.is_file() else []
        told = path.is_file() or not path.exists()
    except OSError:
        lines, told = [], False
    if not told or any(line.startswith('"') for line in lines):  # git also reads quoted lines
        yield Path(store.anchor)
    for line in lines:
        if line and not line.startswith("#"):
            yield Path(os.path.normpath(store / line))  # git takes `..` away without asking the disk, too
