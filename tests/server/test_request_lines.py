import json
from io import BufferedReader, BytesIO
from typing import Any

import pytest

from gemma_mcp.server.lines import RequestLines, answerable
from gemma_mcp.server.tool import REFUSED_KEY


def call(arguments: str, **message: Any) -> bytes:
    head = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", **message})[:-1]
    return (
        head + ', "params": {"name": "chat", "_meta": {"progressToken": 1}, "arguments": ' + arguments + "}}\n"
    ).encode()


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
    message = json.loads(answerable(call(arguments)))
    assert message["id"] == 7
    assert message["method"] == "tools/call"
    assert message["params"]["name"] == "chat"
    assert message["params"]["arguments"] == {}
    assert message["params"]["_meta"]["progressToken"] == 1
    assert reason in message["params"]["_meta"][REFUSED_KEY]


def test_bytes_that_are_no_utf8_are_refused_for_that() -> None:
    line = call('{"message": "caf\u00e9"}').decode().encode("latin-1")
    assert "not UTF-8" in json.loads(answerable(line))["params"]["_meta"][REFUSED_KEY]


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
        call(r'{"a": "\ud800"}', method="resources/read"),
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": "\\ud800"}\n',
        b"[" * 200_000 + b"\n",
    ],
)
def test_every_other_line_passes_untouched(line: bytes) -> None:
    assert answerable(line) == line


def test_a_stream_gives_one_line_at_a_time_and_all_of_it() -> None:
    lines = [call('{"message": "' + "x" * 100_000 + '"}'), b"garbage\n", call('{"message": "last"}')]
    stream = BufferedReader(RequestLines(BufferedReader(BytesIO(b"".join(lines)))))
    assert stream.read1(10) == lines[0][:10]
    assert lines[0][:10] + stream.read() == b"".join(lines)
    assert stream.read() == b""
