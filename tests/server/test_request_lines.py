import json
from io import BufferedReader, BytesIO
from typing import Any

import pytest
from mcp.types import INVALID_PARAMS, INVALID_REQUEST

from gemma_mcp.server.lines import Refusal, RequestLines, answerable
from gemma_mcp.server.tool import REFUSED_KEY


def call(arguments: str, **message: Any) -> bytes:
    head = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", **message})[:-1]
    return (
        head + ', "params": {"name": "chat", "_meta": {"progressToken": 1}, "arguments": ' + arguments + "}}\n"
    ).encode()


def mended(line: bytes) -> Any:
    answer = answerable(line)
    assert isinstance(answer, bytes)
    return json.loads(answer)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (r'{"message": "a\ud800b"}', "half of a surrogate pair"),
        (r'{"message": "\udc00\ud800"}', "half of a surrogate pair"),
        (r'{"\ud800": 1}', "half of a surrogate pair"),
        ('{"max_tokens": ' + "9" * 5000 + "}", "a number of thousands of digits"),
        ('{"json_schema": ' + '{"a":' * 300 + "1" + "}" * 300 + "}", "nested deeper than 100"),
        ('{"json_schema": ' + "[" * 100_000 + "]" * 100_000 + ', "x": "]["}', "nested deeper than 100"),
    ],
)
def test_a_call_that_the_sdk_drops_becomes_one_that_says_why(arguments: str, reason: str) -> None:
    message = mended(call(arguments))
    assert message["id"] == 7
    assert message["method"] == "tools/call"
    assert message["params"]["name"] == "chat"
    assert message["params"]["arguments"] == {}
    assert message["params"]["_meta"]["progressToken"] == 1
    assert reason in message["params"]["_meta"][REFUSED_KEY]


def test_bytes_that_are_no_utf8_are_refused_for_that() -> None:
    line = call('{"message": "caf\u00e9"}').decode().encode("latin-1")
    assert "not UTF-8" in mended(line)["params"]["_meta"][REFUSED_KEY]


@pytest.mark.parametrize(
    "line",
    [
        call('{"message": "plain"}'),
        call(r'{"message": "\ud83d\ude00 \u0000"}'),
        b"\n",
        b"",
        b"garbage\n",
        b'{"half": \n',
        b"\xff\xfe\n",
        b'["\\ud800"]\n',
        b'{"jsonrpc": "2.0", "id": 1, "result": {"a": "\\ud800"}}\n',
        b'{"jsonrpc": "2.0", "id": null, "error": {}}\n',
        b'{"jsonrpc": "2.0", "method": "tools/list", "params": []}\n',
        b'{"jsonrpc": "2.0", "method": "tools/list", "params": {"a": "\\ud800"}}\n',
        b'[{"jsonrpc": "2.0", "method": "tools/list"}]\n',
        b'{"jsonrpc": "2.0", "id": -1180591620717411303424, "method": "ping", "params": null}\n',
        b"[" * 200_000 + b"\n",
    ],
)
def test_every_other_line_passes_untouched(line: bytes) -> None:
    assert answerable(line) == line


@pytest.mark.parametrize(
    ("line", "identity", "code", "words"),
    [
        (call(r'{"a": "\ud800"}', method="resources/read"), 7, INVALID_REQUEST, "half of a surrogate pair"),
        (call("[" * 300 + "]" * 300, method="tools/list"), 7, INVALID_REQUEST, "nested deeper"),
        (call('{"a": ' + "9" * 5000 + "}", method="ping"), 7, INVALID_REQUEST, "thousands of digits"),
        (call('{"a": "\u00e9"}', method="ping").decode().encode("latin-1"), 7, INVALID_REQUEST, "not UTF-8"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": "\\ud800"}', 1, INVALID_PARAMS, "`params`"),
        (b'{"jsonrpc": "2.0", "id": "a", "method": "ping", "params": [1]}', "a", INVALID_PARAMS, "`params`"),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 1, INVALID_REQUEST, "`jsonrpc`"),
        (b'{"id": 1, "method": "ping"}', 1, INVALID_REQUEST, "`jsonrpc`"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', 1, INVALID_REQUEST, "`method`"),
        (b'{"jsonrpc": "2.0", "id": 1}', 1, INVALID_REQUEST, "`method`"),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', None, INVALID_REQUEST, "`id`"),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', None, INVALID_REQUEST, "`id`"),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', None, INVALID_REQUEST, "`id`"),
        (b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}', None, INVALID_REQUEST, "`id`"),
        (b'{"jsonrpc": "2.0", "id": ' + b"9" * 5000 + b', "method": "tools/call"}', None, INVALID_REQUEST, "`id`"),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', None, INVALID_REQUEST, "one message a line"),
    ],
)
def test_every_other_request_is_refused_under_its_id(line: bytes, identity: object, code: int, words: str) -> None:
    refusal = answerable(line)
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.code) == (identity, code)
    assert words in refusal.sentence


def test_a_stream_gives_one_line_at_a_time_and_all_of_it() -> None:
    lines = [call('{"message": "' + "x" * 100_000 + '"}'), b"garbage\n", call('{"message": "last"}')]
    refusals: list[Refusal] = []
    refused = b'{"jsonrpc": "2.0", "id": 1}\n'
    source = BytesIO(refused + b"".join(lines) + refused)
    stream = BufferedReader(RequestLines(BufferedReader(source), refusals.append))
    assert stream.read1(10) == lines[0][:10]
    assert lines[0][:10] + stream.read() == b"".join(lines)
    assert stream.read() == b""
    assert [refusal.id for refusal in refusals] == [1, 1]
