"""Connections to `gemma-mcp serve --http` that break in the middle of a call, without a word of farewell."""

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from http_servers import (
    MODERN,
    SECONDS,
    HttpServer,
    client_of,
    load,
    open_session,
    request,
    serving_http,
    wait_for_load,
)
from scripted_engine import texts

from gemma_mcp.testing.engines import EngineHome

ERAS = [MODERN, "legacy"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    settings = {"GEMMA_MCP_MODEL_DEFAULT": "echo", "GEMMA_MCP_LLAMACPP_SLOTS": "1"}
    home = EngineHome(tmp_path_factory.mktemp("home"), settings)
    try:
        with serving_http(home) as server:
            yield server
    finally:
        home.end()


async def connected(server: HttpServer, era: str, tool: str, arguments: dict[str, Any]) -> tuple[socket.socket, bytes]:
    """A connection of its own, and a call to send over it."""
    headers, body = request("tools/call", {"name": tool, "arguments": arguments}, tool)
    headers["authorization"] = f"Bearer {server.token()}"
    if era != MODERN:
        async with httpx2.AsyncClient(trust_env=False, timeout=SECONDS) as http:
            headers |= await open_session(http, server)
    headers |= {"host": f"127.0.0.1:{server.port}", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    wire = socket.create_connection(("127.0.0.1", server.port or 0), SECONDS)
    return wire, f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body


def reset(wire: socket.socket) -> None:
    """As when the client's machine refuses what comes: no orderly end."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


async def still_answers(server: HttpServer) -> bool:
    async with client_of(server.url, server.token()) as client:
        return texts(await client.call_tool("generate_text", {"prompt": "next"}))[0] == "next"


@pytest.mark.parametrize("era", ERAS)
async def test_a_connection_that_is_reset_frees_its_slot(server: HttpServer, tmp_path: Path, era: str) -> None:
    wire, call = await connected(server, era, "generate_text", {"prompt": f"!hold {tmp_path / 'never'} x"})
    wire.sendall(call)
    await wait_for_load(server.home, 1, 0)
    reset(wire)
    await wait_for_load(server.home, 0, 0)
    assert await still_answers(server)


@pytest.mark.parametrize("era", ERAS)
async def test_a_connection_that_breaks_in_the_queue_frees_its_place(
    server: HttpServer, tmp_path: Path, era: str
) -> None:
    held, call = await connected(server, era, "generate_text", {"prompt": f"!hold {tmp_path / 'never'} x"})
    held.sendall(call)
    await wait_for_load(server.home, 1, 0)
    waiting, call = await connected(server, era, "generate_text", {"prompt": "waits"})
    waiting.sendall(call)
    await wait_for_load(server.home, 1, 1)
    reset(waiting)
    await wait_for_load(server.home, 1, 0)
    held.close()
    await wait_for_load(server.home, 0, 0)


@pytest.mark.parametrize("era", ERAS)
async def test_a_turn_whose_connection_breaks_leaves_its_session_free_and_as_it_was(
    server: HttpServer, tmp_path: Path, era: str
) -> None:
    async with client_of(server.url, server.token()) as client:
        first = await client.call_tool("chat", {"message": "first"})
        assert first.meta is not None
        session = first.meta["gemma-mcp"]["session"]
        turn = {"message": f"!hold {tmp_path / 'never'} lost", "session": session}
        wire, call = await connected(server, era, "chat", turn)
        wire.sendall(call)
        await wait_for_load(server.home, 1, 0)
        reset(wire)
        second = await client.call_tool("chat", {"message": "second", "session": session})
        assert texts(second)[0] == "second"
        (transcript,) = (await client.read_resource(f"gemma://sessions/{session}")).contents
        assert "lost" not in json.dumps(transcript.model_dump(mode="json"))


async def test_a_request_that_breaks_off_is_none(server: HttpServer) -> None:
    for part in (0.3, 0.99):
        wire, call = await connected(server, MODERN, "generate_text", {"prompt": "x" * 100_000})
        wire.sendall(call[: int(part * len(call))])
        reset(wire)
    assert await still_answers(server)
    assert await load(server.home) == (0, 0)
