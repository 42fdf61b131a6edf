"""Cuts texts that are too long for a context, where a reader would: between paragraphs, lines or words.

Nothing is lost and nothing repeated: every character of the input is in exactly one of the pieces, in order.
"""

import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.files import TextFile, split_lines

__all__ = ["Piece", "cut_files", "cut_text"]

Count = Callable[[Sequence[str]], Awaitable[Sequence[int]]]
"""How many tokens texts have."""

BOUNDARIES = (re.compile(r"(?:\r\n|\r|\n)[ \t]*(?:\r\n|\r|\n)"), re.compile(r"\r\n|\r|\n"), re.compile(r"\s"))
"""Ends of paragraphs, of lines, of words; the cut comes after them."""

SLACK = 0.25
"""Share of a piece that may be given up for a better boundary."""

FILLED = 0.9
"""Tokens are not spread evenly over a text, so pieces are cut a little smaller than what fits on average."""


@dataclass(frozen=True)
class Piece:
    """Parts of files that fit a context together."""

    files: tuple[TextFile, ...]
    tokens: int

    @property
    def source(self) -> str:
        """What is in it, for people and for the model."""
        return ", ".join(file.name + (f" lines {file.lines}" if file.lines else "") for file in self.files)


async def cut_files(files: Sequence[TextFile], most_tokens: int, count: Count) -> list[Piece]:
    """The files in pieces of at most `most_tokens`, their blocks included, as few as is simple.

    Raises InputRefusedError when not even a character of a file fits with the block around it.
    """
    parts = await _measured(files, count)
    while any(tokens > most_tokens for _, tokens in parts):
        halves = [_smaller(file, tokens, most_tokens) if tokens > most_tokens else [file] for file, tokens in parts]
        parts = await _measured([file for half in halves for file in half], count)
    return _packed(parts, most_tokens)


def cut_text(text: str, count: int) -> list[str]:
    """About equal pieces, some `count` of them, none of them empty; at least two if there are two characters."""
    places = [0]
    for number in range(1, count):
        target = max(len(text) * number // count, places[-1] + 1)
        if target < len(text):
            places.append(_boundary(text, max(places[-1] + 1, target - int(len(text) / count * SLACK)), target))
    return [text[first:last] for first, last in pairwise([*places, len(text)]) if last > first]


def _boundary(text: str, low: int, target: int) -> int:
    """The best place to cut from `low` to `target`, both included."""
    for boundary in BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(text, max(0, low - 4), target) if match.end() >= low]
        while ends and text[ends[-1] - 1 : ends[-1] + 1] == "\r\n":  # the search ended in the middle of a line end
            ends.pop()
        if ends:
            return ends[-1]
    return next((place for place in range(target, low - 1, -1) if not _joined(text, place)), target)


def _joined(text: str, place: int) -> bool:
    """Whether the character at `place` belongs to the one before it."""
    after = text[place]
    return text[place - 1 : place + 1] == "\r\n" or unicodedata.combining(after) > 0 or after in "\u200d\ufe0f"


async def _measured(files: Sequence[TextFile], count: Count) -> list[tuple[TextFile, int]]:
    return list(zip(files, await count([file.block for file in files]), strict=True))


def _smaller(file: TextFile, tokens: int, most_tokens: int) -> list[TextFile]:
    texts = cut_text(file.text, max(2, ceil(tokens / (most_tokens * FILLED))))
    if len(texts) < 2:
        raise InputRefusedError(file.name, "its name alone does not fit the model's context")
    return _numbered(file, texts)


def _numbered(file: TextFile, texts: Sequence[str]) -> list[TextFile]:
    """Parts of a file that say which lines they are; a line that was cut is in both."""
    first = int(file.lines.partition("-")[0] or 1)
    parts: list[TextFile] = []
    for text in texts:
        lines = split_lines(text)
        whole = lines[-1].endswith(("\r", "\n"))
        parts.append(replace(file, text=text, lines=f"{first}-{first + len(lines) - 1}"))
        first += len(lines) if whole else len(lines) - 1
    return parts


def _packed(parts: Sequence[tuple[TextFile, int]], most_tokens: int) -> list[Piece]:
    """Neighbours together as long as they fit; a token for the line end between two."""
    pieces: list[Piece] = []
    for file, tokens in parts:
        last = pieces[-1] if pieces else None
        if last is not None and last.tokens + tokens + 1 <= most_tokens:
            pieces[-1] = Piece((*last.files, file), last.tokens + tokens + 1)
        else:
            pieces.append(Piece((file,), tokens))
    return pieces
