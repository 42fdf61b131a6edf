"""Code at a cursor, as pure functions: where it is, how its lines end, what of a reply stands after it already."""

import re
from dataclasses import dataclass

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.files import split_lines

__all__ = ["LineEnds", "is_prose", "split_at", "to_lf", "without_tail"]

PROSE = re.compile(
    r"\s*(sure|here is|here's|here are|certainly|of course|okay|sorry|i am|i'm|i do not|i don't|i cannot|i can't|"
    r"as an ai|the (missing |completed? )?code)\b",
    re.IGNORECASE,
)
FENCE = re.compile(r"^\s*(```|~~~)", re.MULTILINE)

WITHIN_WORD = re.compile(r"\w\w")

TAIL_LOOKED_AT = 20_000
"""Characters at the end of a reply in which a repetition of what follows the cursor is looked for."""

FEWEST_REPEATED = 3
"""Characters, without space, that make a repetition; less is chance, closing brackets apart."""

PAIRS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True)
class LineEnds:
    """How the caller's lines end: CRLF when most of them do."""

    crlf: bool

    @classmethod
    def of(cls, text: str) -> "LineEnds":
        """As `text` has them."""
        crlf = text.count("\r\n")
        return cls(crlf > text.count("\n") - crlf)

    def restore(self, text: str) -> str:
        """LF text with the caller's line ends."""
        return text.replace("\n", "\r\n") if self.crlf else text


def to_lf(text: str) -> str:
    """Text as models know it."""
    return text.replace("\r\n", "\n")


def split_at(path: str, text: str, line: int, column: int | None) -> tuple[str, str]:
    """The text before and after a cursor; line and column count from 1, no column means the end of the line.

    A column counts characters; one past the last stands after it. Raises InputRefusedError outside the text.
    """
    lines = split_lines(text)
    if not lines or lines[-1].endswith(("\n", "\r")):
        lines.append("")  # editors show an empty last line
    if line > len(lines):
        raise InputRefusedError(path, f"there is no line {line}: the file has {len(lines)}")
    width = len(lines[line - 1].rstrip("\r\n"))
    if column is not None and column > width + 1:
        raise InputRefusedError(path, f"line {line} has no column {column}: its last is {width + 1}")
    offset = sum(map(len, lines[: line - 1])) + (width if column is None else column - 1)
    return text[:offset], text[offset:]


def is_prose(reply: str) -> bool:
    """Whether an instructed model talked instead of writing code."""
    return PROSE.match(reply) is not None and FENCE.search(reply) is None


def without_tail(code: str, suffix: str) -> str:
    """LF text without what the suffix says next: all of it wherever it stands, or as much as the reply ended in."""
    code = _without_repetition(code, suffix)
    return code.rstrip("\n") if suffix.startswith("\n") else code


def _without_repetition(code: str, suffix: str) -> str:
    following = suffix.strip()
    if not following:
        return code
    start = max(0, len(code) - TAIL_LOOKED_AT)
    for offset in range(start, len(code)):
        if not code[offset].isspace() and _runs_into(code, offset, following):
            return _cut_at(code, offset, suffix)
    return code


def _runs_into(code: str, offset: int, following: str) -> bool:
    """Whether the code, from `offset` on, is the text after the cursor, or as much of it as the reply held."""
    rest = code[offset:].rstrip()
    if len(rest) >= len(following):
        repeated = following if rest.startswith(following) else ""
    else:
        repeated = rest if following.startswith(rest) else ""
    if not repeated:
        return False
    if all(sign in PAIRS for sign in "".join(repeated.split())):
        return len(rest) == len(repeated) and _closes_too_much(code[: offset + len(repeated)], repeated)
    alone = offset == 0 or WITHIN_WORD.match(code, offset - 1) is None
    return alone and len("".join(repeated.split())) >= FEWEST_REPEATED


def _closes_too_much(code: str, brackets: str) -> bool:
    return any(code.count(sign) > code.count(PAIRS[sign]) for sign in brackets if sign in PAIRS)


def _cut_at(code: str, offset: int, suffix: str) -> str:
    """The suffix brings its own leading space, so the cut text does not keep it."""
    kept = code[:offset]
    leading = suffix[: len(suffix) - len(suffix.lstrip())]
    if leading:
        blank = len(kept) - len(kept.rstrip())
        return kept[: len(kept) - blank] if blank <= len(leading) or "\n" in leading else kept
    return kept
