"""Code at a cursor, as pure functions: where it is, what an instructed model is told, what of its reply goes in.

A reply may be wrapped in prose and fences, repeat what stands before or after the cursor, or lose the indentation.
All texts here have LF line ends; `LineEnds` converts on the way in and out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.files import split_lines

__all__ = ["CURSOR", "LineEnds", "instruction", "split_at", "without_fence", "without_repeats"]

CURSOR = "<CURSOR>"

FENCED = re.compile(r"^(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<code>.*?)(?:^(?P=fence)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
FENCE_RUNS = re.compile(r"`{3,}")
PROSE = re.compile(
    r"\s*(sure|here is|here's|here are|certainly|of course|okay|sorry|i am|i'm|i do not|i don't|i cannot|i can't|"
    r"as an ai|the (missing |completed? )?code)\b",
    re.IGNORECASE,
)

LINES_LOOKED_BACK = 200
"""Lines before the cursor whose repetition is recognised."""

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


def instruction(prefix: str, suffix: str, language: str) -> str:
    """What a model without fill-in-the-middle is told."""
    runs = [len(run) for run in FENCE_RUNS.findall(prefix + suffix)]
    fence = "`" * max([3, *(run + 1 for run in runs)])
    return (
        f"Write the {language + ' ' if language else ''}code that belongs where {CURSOR} stands. Reply with that code "
        "alone in one code block: no explanation, and nothing of what already stands before or after it. Keep the "
        f"indentation.\n\n{fence}{language}\n{prefix}{CURSOR}{suffix}\n{fence}"
    )


def without_fence(reply: str) -> str | None:
    """The code of an instructed model's reply; None when the reply is prose."""
    reply = reply.replace(CURSOR, "")
    if match := FENCED.search(reply):
        return match["code"].removesuffix("\n")
    return None if PROSE.match(reply) else reply


def without_repeats(code: str, prefix: str, suffix: str, *, instructed: bool) -> str:
    """The code without what stands before or after the cursor already.

    A model trained for filling in stands exactly at the cursor, so its indentation is left alone.
    """
    head = _repeated_head(code, prefix) if instructed else 0
    code = _without_tail(code[head:], suffix)
    if instructed and not head:  # who repeats the indentation has kept it everywhere
        code = _indented(code, prefix)
    return code.rstrip("\n") if suffix.startswith("\n") else code


def _current_line(prefix: str) -> str:
    return prefix[prefix.rfind("\n") + 1 :]


def _repeated_head(code: str, prefix: str) -> int:
    """How many characters of the code repeat the end of the prefix."""
    for tail in _tails(prefix):
        if code.startswith(tail) and _is_repetition(tail, code[len(tail) :]):
            return len(tail)
    current = _current_line(prefix)
    if current and code.startswith(current) and not current.strip():
        return len(current)
    bare = current.lstrip()
    if bare != current and code.startswith(bare) and _is_repetition(bare, code[len(bare) :]):
        return len(bare)
    return 0


def _tails(prefix: str) -> Iterator[str]:
    """The ends of the prefix that begin with a line, longest first, the current line last."""
    starts = [0, *(match.end() for match in re.finditer("\n", prefix))]
    return (prefix[start:] for start in starts[-LINES_LOOKED_BACK:])


def _is_repetition(text: str, rest: str) -> bool:
    """Whether equal text means that it was repeated; half a word that goes on does not."""
    if len("".join(text.split())) < FEWEST_REPEATED and not re.search(r"\w\W", text):
        return False
    goes_on = re.match(r"\w", rest) and re.search(r"\w\Z", text)
    return bool(re.search(r"\w", text)) and not goes_on


def _indented(code: str, prefix: str) -> str:
    """Restore the indentation that an instructed model left out of the whole block."""
    indent = _current_line(prefix)
    lines = code.split("\n")
    others = [line for line in lines[1:] if line.strip()]
    if not indent or indent.strip() or not others or lines[0][:1].isspace():
        return code
    if all(line.startswith(indent) for line in others):
        return code
    return "\n".join([lines[0], *(indent + line if line.strip() else line for line in lines[1:])])


def _without_tail(code: str, suffix: str) -> str:
    """Cut what the suffix says next: all of it wherever it stands, or the part that the reply ended in."""
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
    alone = offset == 0 or not (code[offset - 1].isalnum() and code[offset].isalnum())
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
