"""Requests that the SDK would drop without an answer, made answerable.

The SDK ignores a line that is no message to it, and the client waits for ever. Four kinds of such lines are requests
all the same: half of a surrogate pair in a text, a number of thousands of digits, very deep nesting, and fields that
are not JSON-RPC's. A tool call of the first three kinds goes on without its arguments and with the reason in `_meta`,
where `GemmaTool` finds it; all other requests are refused here. Every other line passes untouched.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import Any, cast

from mcp.types import INVALID_PARAMS, INVALID_REQUEST, RequestId

from gemma_mcp.server.tool import REFUSED_KEY

__all__ = ["Refusal", "RequestLines", "answerable"]

DEEPEST = 100
"""Levels of nesting that are kept; the SDK's parser stops at 200."""

LONGEST_NUMBER = 4000
"""Digits; Python and the SDK's parser stop at 4300."""

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

REASONS = {
    "encoding": "is not UTF-8. Send valid text.",
    "surrogate": "holds half of a surrogate pair, which is no text. Send valid Unicode.",
    "number": "holds a number of thousands of digits. Send smaller numbers.",
    "deep": f"is nested deeper than {DEEPEST} levels. Send less depth.",
}

NOTHING = object()


@dataclass(frozen=True)
class Refusal:
    """The error that answers a request. `id` is None where the request's own cannot be repeated, as JSON-RPC wants."""

    id: RequestId | None
    code: int
    sentence: str


class RequestLines(RawIOBase):
    """A binary stream of the lines of another one, without those that are refused: these go to `refuse`."""

    def __init__(self, source: BufferedReader, refuse: Callable[[Refusal], None]) -> None:
        super().__init__()
        self._source = source
        self._refuse = refuse
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """At most one line at a time, so that none waits for the next; 0 at the end."""
        while not self._pending and (line := self._source.readline()):
            checked = answerable(line)
            if isinstance(checked, Refusal):
                self._refuse(checked)
            else:
                self._pending = memoryview(checked)
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


def answerable(line: bytes) -> bytes | Refusal:
    """The line, one in its place that says why its arguments cannot be read, or the error that answers it."""
    message = _parsed(line)
    if message is not NOTHING:
        return _refusal(message) or line
    message, fault = _parse_anyhow(line)
    refusal = _refusal(message)
    if refusal is not None:
        return refusal
    request = _object(message)
    params = _object(request.get("params"))
    if not {"id", "method"} <= request.keys():
        return line
    if request["method"] != "tools/call" or not params:
        return Refusal(request["id"], INVALID_REQUEST, f"The request {REASONS[fault]}")
    meta = {**_object(params.get("_meta")), REFUSED_KEY: f"The request {REASONS[fault]}"}
    request = {**request, "params": {**params, "arguments": {}, "_meta": meta}}
    return json.dumps(_without_surrogates(request)).encode("ascii") + b"\n"


def _parsed(line: bytes) -> object:
    """What the SDK's parser makes of a line; NOTHING if it cannot parse it."""
    from pydantic_core import from_json

    try:
        return from_json(line) if line.strip() else None
    except ValueError:
        return NOTHING


def _refusal(message: object) -> Refusal | None:
    """What is wrong with the fields of a request that wants an answer; None for all that is none."""
    if isinstance(message, list):
        requests = any("id" in _object(item) for item in cast("list[object]", message))
        return Refusal(None, INVALID_REQUEST, "Batches are not taken: send one message a line.") if requests else None
    request = _object(message)
    if "id" not in request or ("method" not in request and {"result", "error"} & request.keys()):
        return None
    identity = request["id"] if _is_id(request["id"]) else None
    if identity is None:
        return Refusal(None, INVALID_REQUEST, "The `id` of a request must be a text or a whole number.")
    if request.get("jsonrpc") != "2.0":
        return Refusal(identity, INVALID_REQUEST, 'The field `jsonrpc` must be "2.0".')
    if not isinstance(request.get("method"), str):
        return Refusal(identity, INVALID_REQUEST, "The field `method` must be the name of a method.")
    if not isinstance(request.get("params"), dict | None):
        return Refusal(identity, INVALID_PARAMS, "`params` must be an object.")
    return None


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return LONE_SURROGATE.search(value) is None
    return isinstance(value, int) and not isinstance(value, bool)


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _parse_anyhow(line: bytes) -> tuple[object, str]:
    """The message as far as it can be read, and what is wrong with it."""
    text = line.decode("utf-8", "replace")
    fault = "surrogate" if text.encode("utf-8") == line else "encoding"

    def number(digits: str) -> int | None:
        nonlocal fault
        if len(digits) > LONGEST_NUMBER:
            fault = "number"
            return None
        return int(digits)

    shallow = "".join(_shallow(text))
    if len(shallow) < len(text):
        fault = "deep"
    try:
        return json.loads(shallow, parse_int=number), fault
    except (ValueError, RecursionError):
        return None, fault


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
