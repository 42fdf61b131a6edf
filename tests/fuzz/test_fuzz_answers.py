"""Whatever a client asks, as long as it carries an id, is answered."""

from typing import Any

import pytest
from fuzz_server import FuzzServer

ODD = [
    b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"a": "\\ud800"}}',
    b'{"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {"a": ' + b"[" * 9000 + b"]" * 9000 + b"}}",
    b'{"jsonrpc": "2.0", "id": 3, "method": "ping", "params": {"a": ' + b"9" * 5000 + b"}}",
    b'{"jsonrpc": "2.0", "id": 4, "method": "resources/read", "params": {"uri": "caf\xe9"}}',
    b'{"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "chat", "arguments": {"a": "\\ud800"}}}',
    b'{"jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": [1]}',
    b'{"jsonrpc": "1.0", "id": 7, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": 8}',
    b'{"jsonrpc": "2.0", "id": 9, "method": null}',
    b'{"jsonrpc": "2.0", "id": 10, "method": "no/such"}',
    b'{"jsonrpc": "2.0", "id": 11, "method": "tools/list", "params": {"cursor": 5}}',
    b'{"jsonrpc": "2.0", "id": 12, "method": "prompts/get", "params": {"name": NaN}}',
]


@pytest.mark.parametrize("server", [True, False], ids=["2025-11-25", "2026-07-28"], indirect=True)
def test_every_request_with_an_id_is_answered(server: FuzzServer) -> None:
    for line in ODD:
        server.send(line + b"\n")
    answers: dict[Any, dict[str, Any]] = {}
    while len(answers) < len(ODD):
        answer = server.next()
        assert answer["id"] not in answers
        answers[answer["id"]] = answer
    assert sorted(answers) == list(range(1, len(ODD) + 1))
    codes = {number: answer.get("error", {}).get("code") for number, answer in answers.items()}
    assert [codes[number] for number in (1, 2, 3, 4, 7, 8, 9)] == [-32600] * 7
    assert codes[6] == -32602
    assert "half of a surrogate pair" in str(answers[1]["error"]["message"])
