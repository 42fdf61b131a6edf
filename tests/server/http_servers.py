"""`gemma-mcp serve --http` in a process of its own, and clients of it."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.extension import ClientExtension
from mcp.client.streamable_http import streamable_http_client

from gemma_mcp.testing.engines import EngineHome

SECONDS = 30
"""After which a test gives up on a process."""

MODERN = "2026-07-28"


class HttpServer:
    """A server that listens: its address, its process, and the tokens of its clients."""

    def __init__(self, home: EngineHome, process: subprocess.Popen[bytes], url: str) -> None:
        self.home = home
        self.process = process
        self.url = url
        self.port = httpx2.URL(url).port
        self._tokens: dict[str, str] = {}

    def token(self, client: str = "default") -> str:
        """As the command prints it."""
        if client not in self._tokens:
            self._tokens[client] = self._print_token(client)
        return self._tokens[client]

    def _print_token(self, client: str) -> str:
        command = [sys.executable, "-m", "gemma_mcp", "http-token", client]
        done = subprocess.run(command, env=self.home.environ, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def end(self) -> tuple[int, str]:
        """Exit status and what was left on stderr, once it has ended by itself."""
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        assert self.process.stderr is not None
        errors = self.process.stderr.read().decode()
        watchdog.cancel()
        return self.process.wait(), errors


@contextlib.contextmanager
def serving_http(home: EngineHome, *flags: str) -> Generator[HttpServer]:
    """A server on a free port."""
    command = [sys.executable, "-m", "gemma_mcp", "serve", "--http", "--port", "0", *flags]
    process = subprocess.Popen(command, env=home.environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        line = process.stderr.readline().decode()
        assert "MCP at http://" in line, line + process.stderr.read().decode()
        yield HttpServer(home, process, line.split("MCP at ")[1].split()[0])
    finally:
        process.kill()
        process.communicate()


@contextlib.asynccontextmanager
async def client_of(
    url: str, token: str, era: str = MODERN, extensions: Sequence[ClientExtension] = ()
) -> AsyncGenerator[Client]:
    """The SDK's client with a token."""
    headers = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=SECONDS, trust_env=False) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=era, extensions=extensions) as client:
            yield client


def request(method: str, params: dict[str, Any], name: str = "") -> tuple[dict[str, str], bytes]:
    """Headers and body of a request of the newer protocol, by hand."""
    about: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": about}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": method,
    }
    return headers | ({"mcp-name": name} if name else {}), json.dumps(body).encode()


async def open_session(http: httpx2.AsyncClient, server: HttpServer, name: str = "default") -> dict[str, str]:
    """Open a session of the older protocol; the headers that name it."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    headers = {
        "accept": "application/json, text/event-stream",
        "authorization": f"Bearer {server.token(name)}",
    }
    opened = await http.post(server.url, json=opening, headers=headers)
    return {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}


async def load(home: EngineHome) -> tuple[int, int]:
    """Requests that the engine works on, and those that wait for it."""
    async with home.pool() as pool:
        status = await pool.running()
    models = status.models if status else ()
    return sum(model.running for model in models), sum(model.waiting for model in models)


async def wait_for_running(home: EngineHome, count: int) -> None:
    """Until the engine works on exactly so many requests."""
    with anyio.fail_after(SECONDS):
        while (await load(home))[0] != count:
            await anyio.sleep(0.02)


async def wait_for_load(home: EngineHome, running: int, waiting: int) -> None:
    """Until the engine works on exactly so many requests, and so many wait."""
    with anyio.fail_after(SECONDS):
        while await load(home) != (running, waiting):
            await anyio.sleep(0.02)


def project_in(folder: Path, text: str) -> Path:
    """A project with one file."""
    folder.mkdir()
    (folder / "note.txt").write_text(text, encoding="utf-8")
    return folder
