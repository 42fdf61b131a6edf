"""Requests that the SDK's parser would drop without an answer, made answerable.

The SDK ignores a line that is no message to it, and the client waits for ever. Three kinds of such lines are requests
all the same: half of a surrogate pair in a text, a number of thousands of digits, and very deep nesting. Their
arguments are taken out and the reason is put in `_meta`, where `GemmaTool` finds it. Every other line passes untouched.
"""

import json
import re
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import Any, cast

from gemma_mcp.server.tool import REFUSED_KEY

__all__ = ["RequestLines", "answerable"]

DEEPEST = 100
"""Levels of nesting that are kept; the SDK's parser stops at 200."""

LONGEST_NUMBER = 4000
"""Digits; Python and the SDK's parser stop at 4300."""

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

REASONS = {
    "encoding": "The arguments are not UTF-8. Send valid text.",
    "surrogate": "The arguments hold half of a surrogate pair, which is no text. Send valid Unicode.",
    "number": "The arguments hold a number of thousands of digits. Send smaller numbers.",
    "deep": f"The arguments are nested deeper than {DEEPEST} levels. Send flatter ones.",
}


class RequestLines(RawIOBase):
    """A binary stream of the lines of another one, each of them answerable."""

    def __init__(self, source: BufferedReader) -> None:
        super().__init__()
        self._source = source
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """At most one line at a time, so that none waits for the next; 0 at the end."""
        if not self._pending:
            self._pending = memoryview(answerable(self._source.readline()))
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def answerable(line: bytes) -> bytes:
    """The line, or in place of a tool call that the SDK cannot parse one that says why."""
    if _parses(line):
        return line
    message, fault = _parse_anyhow(line)
    params = _object(message.get("params"))
    if message.get("method") != "tools/call" or not params:
        return line
    meta = {**_object(params.get("_meta")), REFUSED_KEY: REASONS[fault]}
    request = {**message, "params": {**params, "arguments": {}, "_meta": meta}}
    return json.dumps(_without_surrogates(request)).encode("ascii") + b"\n"


def _parses(line: bytes) -> bool:
    from pydantic_core import from_json

    try:
        from_json(line)
    except ValueError:
        return not line.strip()
    return True


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _parse_anyhow(line: bytes) -> tuple[dict[str, Any], str]:
    """The message as far as it can be read, and what is wrong with it."""
    text = line.decode("utf-8", "replace")
    fault = "surrogate" if text.encode("utf-8") == line else "encoding"

    def number(digits: str) -> int:
        nonlocal fault
        if len(digits) > LONGEST_NUMBER:
            fault = "number"
            return 0
        return int(digits)

    shallow = "".join(_shallow(text))
    if len(shallow) < len(text):
        fault = "deep"
    try:
        return _object(json.loads(shallow, parse_int=number)), fault
    except (ValueError, RecursionError):
        return {}, fault


def _shallow(line: str) -> Iterator[str]:
    """The pieces of a JSON text without what is nested too deep; `null` stands in its place."""
    depth = kept_to = 0
    for match in TOKEN.finditer(line):
        sign = match[0]
        if sign in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                yield line[kept_to : match.start()] + "null"
        elif sign in "]}":
            if depth == DEEPEST + 1:
                kept_to = match.end()
            depth -= 1
    if depth <= DEEPEST:
        yield line[kept_to:]


def _without_surrogates(value: object) -> object:
    """The value with replacement characters: a tool's name or an id could hold half a pair, too."""
    if isinstance(value, str):
        return LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {
            str(_without_surrogates(key)): _without_surrogates(item)
            for key, item in cast("dict[str, object]", value).items()
        }
    return value
