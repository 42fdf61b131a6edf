"""Code completion with a model that follows instructions but has no fill-in-the-middle training.

Such a model repeats what stands before the cursor, adds what stands after it, wraps everything in a fence and talks
about it. `instruct_messages` asks it not to; `only_the_insertion` takes out what it did all the same.
"""

import re
from itertools import islice

from gemma_mcp.chat.messages import Message
from gemma_mcp.types import Text

__all__ = ["instruct_messages", "only_the_insertion"]

MARKERS = ("<CURSOR>", "<CURSOR_HERE>", "<INSERT_CODE_AT_THIS_CURSOR>")
FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*$", re.MULTILINE)
PROSE_BEFORE = re.compile(
    r"^(sure|certainly|of course|here('s|’s| is| are)|the (missing|completed|following)) ?[^\n]*[:.!]$", re.I
)
PROSE_AFTER = re.compile(
    r"\n[ \t]*\n(explanation|note that|note:|this (code|function|snippet|completes|will|adds)|the (inserted|missing) )"
    r"[^\n]*(\n.*)?\Z",
    re.IGNORECASE | re.DOTALL,
)
WORD = re.compile(r"\w")
REPEATED_LINES = 200
"""Lines before and after the cursor in which a repetition is looked for; small models never copy more."""


def instruct_messages(prefix: str, suffix: str, language: str | None) -> list[Message]:
    """The prompt: what to do, and the code with a marker at the cursor. `language` None leaves it to the model."""
    marker = next((m for m in MARKERS if m not in prefix and m not in suffix), MARKERS[-1])
    what = f"{language} code" if language else "code"
    request = (
        f"Complete this {what}. Write only the text that replaces {marker}: do not repeat what stands before or after "
        f"it, no explanation, no code fence. Keep the indentation.\n\n{prefix}{marker}{suffix}"
    )
    return [Message("user", (Text(request.replace("\r\n", "\n")),))]


def only_the_insertion(reply: str, prefix: str, suffix: str) -> str:
    """What of the reply goes in at the cursor: without prose, fences and what already stands around the cursor.

    Its line ends are those of the code around it. It never begins with the last line before the cursor that has a
    letter or digit in it, nor ends with the rest of the cursor's line.
    """
    before, after = prefix.replace("\r\n", "\n"), suffix.replace("\r\n", "\n")
    text = _without_wrapping(reply.replace("\r\n", "\n"))
    for marker in MARKERS:
        if marker not in before and marker not in after:
            text = text.replace(marker, "")
    text = _without_prefix(text, before)
    text = _without_suffix(text, after)
    text = _joined_to(_indented(text, before), before, after)
    return text.replace("\n", "\r\n") if "\r\n" in prefix + suffix else text


def _without_wrapping(reply: str) -> str:
    """The first fenced block, or without one the reply less the sentences around the code."""
    opening = FENCE.search(reply)
    if opening:
        body = reply[opening.end() + 1 :]
        closing = re.search(rf"^[ \t]*{opening[1]}[ \t]*$", body, re.MULTILINE)
        return body[: closing.start()] if closing else body
    first, newline, rest = reply.lstrip("\n").partition("\n")
    text = rest.lstrip("\n") if newline and PROSE_BEFORE.match(first.strip()) else reply
    text = PROSE_AFTER.sub("", text)
    inline = re.fullmatch(r"\s*`([^`\n]+)`\s*", text)
    return inline[1] if inline else text


def _without_prefix(text: str, before: str) -> str:
    """The reply from where it stops to repeat what stands before the cursor."""
    text = _without_lines_before(text, before)
    current = before.rpartition("\n")[2]
    key = current.strip()
    opening = text.lstrip()
    if key and WORD.search(key) and opening.startswith(key):
        rest = opening.removeprefix(key)
        return rest.lstrip(" \t") if current != current.rstrip() else rest
    return text


def _without_lines_before(text: str, before: str) -> str:
    """Without its first lines when these are the last whole lines before the cursor, however they are indented."""
    whole, _, current = before.rpartition("\n")
    known = [line.strip() for line in whole.split("\n") if line.strip()][-REPEATED_LINES:]
    lines = text.lstrip("\n").split("\n")
    start = 0
    while repeated := _lines_repeated(lines, start, known):
        start = repeated
        if current.strip():
            break  # what follows belongs to the cursor's own line
    return "\n".join(lines[start:]) if start else text


def _lines_repeated(lines: list[str], start: int, known: list[str]) -> int:
    """The number of the line after the longest repetition of the end of `known`, 0 when nothing is repeated."""
    filled = list(islice((n for n in range(start, len(lines)) if lines[n].strip()), REPEATED_LINES))
    said = [lines[number].strip() for number in filled]
    for count in range(min(len(known), len(said)), 0, -1):
        if known[-count:] == said[:count] and any(WORD.search(line) for line in said[:count]):
            return filled[count - 1] + 1
    return 0


def _without_suffix(text: str, after: str) -> str:
    """The reply up to where it begins to repeat what stands after the cursor."""
    body = text.rstrip()
    target = after.lstrip("\n") if after.startswith("\n") else after
    lines = target.split("\n")[:REPEATED_LINES]
    for count in range(len(lines), 0, -1):
        piece = "\n".join(lines[:count]).rstrip()
        if not piece.strip() or not _ends_with_lines(body, piece):
            continue
        cut = body[: len(body) - len(piece)] if body.endswith(piece) else _drop_last_lines(body, piece)
        at_line = after.startswith("\n") or not after[:1].strip()
        if WORD.search(piece) or _balances(cut, body):
            return cut.rstrip("\n") if at_line else cut
    return text


def _ends_with_lines(body: str, piece: str) -> bool:
    if body.endswith(piece):
        head = body[: len(body) - len(piece)]
        return not (head[-1:].isalnum() and piece[:1].isalnum())
    wanted = [line.strip() for line in piece.split("\n") if line.strip()]
    said = [line.strip() for line in body.split("\n") if line.strip()]
    return len(wanted) < len(said) and said[-len(wanted) :] == wanted and len(wanted) > 1


def _drop_last_lines(body: str, piece: str) -> str:
    left = sum(1 for line in piece.split("\n") if line.strip())
    lines = body.split("\n")
    while left:
        left -= 1 if lines.pop().strip() else 0
    return "\n".join(lines)


def _balances(cut: str, body: str) -> bool:
    """Whether brackets or quotes close only without the end that repeats the suffix."""
    return abs(_open_brackets(cut)) < abs(_open_brackets(body)) or any(
        body.count(quote) % 2 and not cut.count(quote) % 2 for quote in "\"'"
    )


def _open_brackets(text: str) -> int:
    return sum((c in "([{") - (c in ")]}") for c in text)


def _indented(text: str, before: str) -> str:
    """With the indentation that the place needs, when the model began its block at the margin."""
    current = before.rpartition("\n")[2]
    if current.strip():
        return text
    lines = text.lstrip("\n").split("\n")
    if current and lines[0].startswith(current):
        lines[0] = lines[0].removeprefix(current)
    elif current and lines[0][:1] not in (" ", "\t") and _at_margin(lines, current):
        lines[1:] = [current + line if line.strip() else line for line in lines[1:]]
    elif not current and (indent := _opened_indent(before)) and lines[0][:1] not in (" ", "\t", ""):
        lines = [indent + line if line.strip() else line for line in lines]
    return "\n".join(lines)


def _at_margin(lines: list[str], current: str) -> bool:
    """Whether the lines after the first were written as if the cursor stood in column 0."""
    following = next((line for line in lines[1:] if line.strip()), "")
    if not following or following.startswith(("def ", "class ", "@", "if __name__")):
        return False
    width = len(following) - len(following.lstrip())
    return width <= len(current) if lines[0].rstrip().endswith((":", "{", "(", "[")) else width < len(current)


def _opened_indent(before: str) -> str:
    """The indentation after a last line that opens a Python block; empty when it opens none."""
    last = next((line for line in reversed(before.split("\n")) if line.strip()), "")
    if not last.rstrip().endswith(":"):
        return ""
    unit = "\t" if last.startswith("\t") else "    "
    return last[: len(last) - len(last.lstrip())] + unit


def _joined_to(text: str, before: str, after: str) -> str:
    """With line ends that fit: none twice before a line end, one before a line that follows whole lines."""
    if not text.strip():
        return ""
    if not after or after.startswith("\n"):
        return text.rstrip()
    if before.endswith("\n") or not before:
        return text.rstrip() + "\n"
    return text.rstrip("\n")
