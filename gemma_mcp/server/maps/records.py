"""What a record is about: a file, a chunk or a line of it. Here texts are cut; nothing is asked."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.cuts import cut_files
from gemma_mcp.server.inputs.files import TextFile, split_lines

__all__ = ["Count", "Part", "Per", "Record", "chunks_of", "excerpt", "lines_of", "whole_file"]

Per = Literal["file", "chunk", "line"]
Count = Callable[[Sequence[str]], Awaitable[Sequence[int]]]

BLOCK_BYTES = 64
"""More than what stands around a file in a prompt, its name left out."""


@dataclass(frozen=True)
class Part:
    """Where a part stands in the text of its file, and which lines it is ("10-80", empty for a whole file)."""

    start: int
    end: int
    lines: str = ""


@dataclass(frozen=True)
class Record:
    """A part of a file, and the `key` of the question about it: the same key means the same question."""

    path: str
    part: Part
    key: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.path}:{self.part.lines}" if self.part.lines else self.path


def excerpt(file: TextFile, part: Part, per: Per) -> TextFile:
    """The part as the model sees it. Which line of a file it is would make different questions of equal lines."""
    return replace(file, text=file.text[part.start : part.end], lines="" if per == "line" else part.lines)


def whole_file(file: TextFile) -> list[Part]:
    """All of it in one. Raises InputRefusedError for an empty file."""
    if not file.text.strip():
        raise InputRefusedError(file.name, "it is empty")
    return [Part(0, len(file.text), file.lines)]


def lines_of(file: TextFile) -> list[Part]:
    """Its lines, without their ends and without blank ones. Raises InputRefusedError when there are none."""
    parts: list[Part] = []
    place = 0
    for number, line in enumerate(split_lines(file.text), int(file.lines.partition("-")[0] or 1)):
        if line.strip():
            parts.append(Part(place, place + len(line.rstrip("\r\n")), str(number)))
        place += len(line)
    if not parts:
        raise InputRefusedError(file.name, "it has no lines with anything in them")
    return parts


async def chunks_of(file: TextFile, most_tokens: int, count: Count) -> list[Part]:
    """Pieces that fit `most_tokens` with their blocks; tokens are counted only where bytes do not tell already."""
    whole = whole_file(file)
    if len(file.text.encode("utf-8", "replace")) + len(file.name) * 6 + BLOCK_BYTES <= most_tokens:
        return whole  # a token has at least a byte
    parts: list[Part] = []
    place = 0
    for piece in await cut_files([file], most_tokens, count):
        end = place + sum(len(part.text) for part in piece.files)
        first, last = piece.files[0].lines.partition("-")[0], piece.files[-1].lines.partition("-")[2]
        parts.append(Part(place, end, f"{first}-{last}" if first else ""))
        place = end
    return parts if len(parts) > 1 else whole
