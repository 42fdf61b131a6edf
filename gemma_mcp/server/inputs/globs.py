"""Patterns such as `src/**/*.py`: which files they name, always in the same order.

As in a shell, `*` and `?` do not match a leading dot and do not cross a `/`; `**` stands for any folders, `{a,b}` for
either. What .gitignore leaves out is left out, as are .git and secrets; links to folders are not entered.
"""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.ignores import Ignores
from gemma_mcp.server.inputs.path_forms import printable, refuse_form, shorten
from gemma_mcp.server.inputs.paths import PathPolicy

__all__ = ["Found", "find_files", "is_glob", "left_out", "listed"]

WILD = re.compile(r"[*?\[{]")
BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")

MOST_ENTRIES = 100_000
"""Entries of folders that one pattern may look at: a second or two of work."""

MOST_VARIANTS = 64
"""Patterns that braces may stand for."""

NAMES_SHOWN = 3
"""Of files that were left out, in the line below the result."""


@dataclass(frozen=True)
class Found:
    """The files of a pattern as paths to read, and what was left out of them that a reader should know."""

    paths: tuple[str, ...]
    note: str = ""


def is_glob(spec: str) -> bool:
    """Whether it looks like a pattern; a file of that very name goes first."""
    return WILD.search(spec) is not None


def find_files(policy: PathPolicy, pattern: str, most: int) -> Found:
    """The files that a pattern names, sorted by their parts. Blocks.

    Raises InputRefusedError when there are none or more than `most`, and for a pattern that leaves the roots.
    """
    refuse_form(re.sub(r"[*?\[\]{},]", "x", pattern))
    walk = Walk(policy, pattern)
    for variant in _variants(pattern):
        walk.take(variant)
    paths = sorted(walk.files, key=lambda path: path.parts)
    if len(paths) > most:
        raise _too_many(pattern, len(paths), most)
    paths = _without_twins(paths)
    secret = [path for path in paths if policy.is_secret(path) or policy.is_secret(path.resolve())]
    kept = [path for path in paths if path not in secret]
    if not kept:
        raise _nothing(pattern, len(secret))
    notes = (left_out([path.name for path in secret]), listed("could not be entered", walk.closed))
    return Found(tuple(str(path) for path in kept), " · ".join(filter(None, notes)))


def left_out(secret: Sequence[str]) -> str:
    """A note on secrets among what was asked for."""
    return listed("left out as secret", secret)


def listed(what: str, names: Sequence[str]) -> str:
    """A note on some files; empty without any."""
    if not names:
        return ""
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{what}: {printable(', '.join(names[:NAMES_SHOWN]))}{more}"


@dataclass
class Walk:
    """One walk over the folders for all variants of a pattern."""

    policy: PathPolicy
    pattern: str
    files: set[Path] = field(default_factory=set[Path])
    closed: list[str] = field(default_factory=list[str])
    _seen: set[tuple[Path, tuple[str, ...]]] = field(default_factory=set[tuple[Path, tuple[str, ...]]])
    _looked_at: int = 0

    def __post_init__(self) -> None:
        self._roots = self.policy.roots()

    def take(self, variant: str) -> None:
        """Add the files of one pattern without braces."""
        fixed, parts = _split(variant)
        if ".." in parts:
            raise InputRefusedError(shorten(self.pattern), "it goes up after a wildcard", "Write it without '..'.")
        base = self.policy.find(fixed or ".")
        if base is None or not base.real.is_dir() or _is_gits(base.real.relative_to(base.root)):
            return
        self._enter(base.real, parts, _ignores_at(base.root, base.real))

    def _enter(self, folder: Path, parts: tuple[str, ...], ignores: Ignores) -> None:
        if (folder, parts) in self._seen:
            return
        self._seen.add((folder, parts))
        head, rest = parts[0], parts[1:]
        if head == "**" and rest:
            self._enter(folder, rest, ignores)
        for entry in self._entries(folder):
            if not _matches(entry.name, head):
                continue
            if entry.is_dir(follow_symlinks=False):
                self._enter_below(Path(entry.path), parts if head == "**" else rest, ignores)
            elif (not rest) and self._is_wanted(entry, ignores):
                self.files.add(Path(entry.path))

    def _enter_below(self, folder: Path, parts: tuple[str, ...], ignores: Ignores) -> None:
        if parts and not ignores.ignores(folder, folder=True):
            self._enter(folder, parts, ignores.entered(folder))

    def _is_wanted(self, entry: os.DirEntry[str], ignores: Ignores) -> bool:
        """Links are taken when they lead to a file in the roots; pipes and devices never."""
        try:
            if not entry.is_file() or ignores.ignores(Path(entry.path), folder=False):
                return False
        except OSError:  # a loop of links
            return False
        real = Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path)
        return any(real.is_relative_to(root) for root in self._roots)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError:
            self.closed.append(folder.name)
            return []
        self._looked_at += len(found)
        if self._looked_at > MOST_ENTRIES:
            why = f"it would look at more than {MOST_ENTRIES:,} files and folders"
            raise InputRefusedError(shorten(self.pattern), why, "Begin it with a folder, such as 'src/**/*.py'.")
        return found


def _matches(name: str, part: str) -> bool:
    """.git is never matched, other hidden names only when the dot is written."""
    if name.lower() == ".git":
        return False
    if name.startswith(".") and not part.startswith("."):
        return False
    return part == "**" or fnmatch.fnmatch(name, part)


def _is_gits(folder: Path) -> bool:
    return any(part.lower() == ".git" for part in folder.parts)


def _ignores_at(root: Path, folder: Path) -> Ignores:
    """The rules in a folder that the pattern names outright, which may itself be one that is left out."""
    ignores = Ignores.of(root)
    for part in reversed([folder, *folder.parents]):
        if part != root and part.is_relative_to(root):
            ignores = ignores.entered(part)
    return ignores


def _split(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The folder that is written out, and the parts from the first wildcard on."""
    path = pattern.replace(os.sep, "/")
    parts = path.split("/")
    first = next((place for place, part in enumerate(parts) if is_glob(part)), len(parts) - 1)
    fixed = "/".join(parts[:first])
    wild = [part for part in parts[first:] if part not in ("", ".")]
    return (fixed or ("/" if path.startswith("/") else "")), tuple(_without_repeats(wild))


def _without_twins(paths: Sequence[Path]) -> list[Path]:
    """One path to each file: links may lead to what matches, too, and then the file itself is kept."""
    real = {path.resolve(): path for path in sorted(paths, key=Path.is_symlink, reverse=True)}
    return [path for path in paths if real[path.resolve()] == path]


def _without_repeats(parts: Sequence[str]) -> Iterator[str]:
    for place, part in enumerate(parts):
        if part != "**" or place == 0 or parts[place - 1] != "**":
            yield part


def _variants(pattern: str) -> list[str]:
    """The patterns that braces stand for."""
    done: list[str] = []
    waiting = [pattern]
    while waiting:
        match = BRACES.search(waiting[0])
        first = waiting.pop(0)
        if match is None:
            done.append(first)
        else:
            waiting += [first[: match.start()] + choice + first[match.end() :] for choice in match[1].split(",")]
        if len(waiting) + len(done) > MOST_VARIANTS:
            raise InputRefusedError(shorten(pattern), f"its braces stand for more than {MOST_VARIANTS} patterns")
    return done


def _too_many(pattern: str, count: int, most: int) -> InputRefusedError:
    why = f"{count:,} files match, more than the {most:,} that are allowed"
    return InputRefusedError(shorten(pattern), why, "Narrow it.")


def _nothing(pattern: str, secrets: int) -> InputRefusedError:
    if secrets:
        return InputRefusedError(shorten(pattern), f"all that it matches is secret by its name ({secrets} files)")
    hint = "Hidden files and those that .gitignore leaves out are not matched; name them one by one."
    return InputRefusedError(shorten(pattern), "it matches no file", hint)
