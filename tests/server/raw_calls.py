"""Calls of any tool by hand, and what came of them."""

from typing import Any

from server_pipes import RawClient

from gemma_mcp.testing.errors import assert_plain_text


def ask(server: RawClient, number: int, tool: str, **arguments: Any) -> None:
    """Send the call number `number`."""
    call = server.call(number, **arguments)
    call["params"]["name"] = tool
    server.send(call)


def said(server: RawClient, number: int) -> tuple[str, str]:
    """The answer of a call that works: its text, and the line below."""
    result = server.answer(number)["result"]
    assert not result.get("isError"), result
    text, line = (block["text"] for block in result["content"])
    return text, line


def refused(server: RawClient, number: int) -> str:
    """The error of a call that does not: a sentence or two, and nothing of the inside."""
    return error_of(server.answer(number))


def error_of(answer: dict[str, Any]) -> str:
    """The same of an answer that was read."""
    result = answer["result"]
    assert result["isError"]
    text: str = result["content"][0]["text"]
    assert_plain_text(text)
    return text


def begun(server: RawClient, number: int, message: str = "first") -> str:
    """The name of a new session with one turn."""
    ask(server, number, "chat", message=message)
    result = server.answer(number)["result"]
    name: str = result["_meta"]["gemma-mcp"]["session"]
    return name
