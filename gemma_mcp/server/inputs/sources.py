"""Many files, named but not read yet: for work that takes one after the other and never holds all of them.

What cannot be read is no reason to refuse the others, so it is told apart instead of raised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.files import TextFile, TextFiles, split_range
from gemma_mcp.server.inputs.globs import find_files, is_glob
from gemma_mcp.server.inputs.path_forms import printable, shorten
from gemma_mcp.server.inputs.repository import GIT_PREFIX

__all__ = ["FileSources", "Found", "Source"]


@dataclass(frozen=True)
class Source:
    """A file as a call named it, or as a pattern found it; `lines` ("10-80") are those that the pattern asked for.

    `name` is what to call it until it is read.
    """

    spec: str
    name: str
    lines: str = ""


@dataclass(frozen=True)
class Found:
    """The files of a call in order, what named none and why, and what else a reader should know."""

    sources: tuple[Source, ...]
    refused: tuple[InputRefusedError, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FileSources:
    """Lists files, up to `max_files` of a call, and reads them one by one, each as `files` would."""

    files: TextFiles
    max_files: int

    async def find(self, specs: Sequence[str]) -> Found:
        """The files of a call. Raises InputRefusedError for too many."""
        return await anyio.to_thread.run_sync(partial(self._find, specs), abandon_on_cancel=True)

    def read(self, source: Source) -> TextFile:
        """One of them. Blocks. Raises InputRefusedError with the reason."""
        return self.files.read_one(source.spec, source.lines)

    def _find(self, specs: Sequence[str]) -> Found:
        found: dict[Source, None] = {}
        refused: list[InputRefusedError] = []
        notes: list[str] = []
        for spec in specs:
            try:
                found |= dict.fromkeys(self._sources(spec, notes))
            except InputRefusedError as error:
                refused.append(error)
            if len(found) + len(refused) > self.max_files:
                why = f"there are more than the {self.max_files:,} that map.max_files allows"
                raise InputRefusedError("files", why, "Name fewer in one call.")
        return Found(tuple(found), tuple(refused), tuple(notes))

    def _sources(self, spec: str, notes: list[str]) -> Iterator[Source]:
        if spec.startswith(GIT_PREFIX) or self.files.policy.exists(spec) or not is_glob(spec):
            yield Source(spec, shorten(spec))
            return
        pattern, lines = split_range(spec)
        found = find_files(self.files.policy, pattern, self.max_files)
        notes += [found.note] if found.note else []
        project = self.files.policy.project()
        yield from (Source(path, _name(Path(path), project), lines) for path in found.paths)


def _name(path: Path, project: Path) -> str:
    return printable(path.relative_to(project).as_posix() if path.is_relative_to(project) else path.as_posix())
