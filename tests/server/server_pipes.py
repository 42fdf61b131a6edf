"""Servers in processes of their own, at the other end of pipes."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

from gemma_mcp.testing.engines import EngineHome

SERVE = [sys.executable, "-m", "gemma_mcp"]

SECONDS = 60
"""After which a test gives up on a process."""


def home_in(folder: Path, **settings: str) -> EngineHome:
    """Where the servers of a test keep their files, with the echo model."""
    defaults = {
        "GEMMA_MCP_MODEL_DEFAULT": "echo",
        "GEMMA_MCP_LLAMACPP_THREADS": "1",
        "GEMMA_MCP_SERVER_PROGRESS_INTERVAL": "0.1",
    }
    return EngineHome(folder, defaults | settings)


@contextlib.asynccontextmanager
async def client_of(environ: dict[str, str], project: Path, era: str = "2026-07-28") -> AsyncGenerator[Client]:
    server = StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=environ, cwd=project)
    async with Client(server, mode=era) as client:
        yield client


@contextlib.contextmanager
def serving(environ: dict[str, str], project: Path, *command: str) -> Generator["RawClient"]:
    """A server at the other end of plain pipes."""
    process = subprocess.Popen(
        command or SERVE,
        env=environ,
        cwd=project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield RawClient(process)
    finally:
        process.kill()
        process.communicate()


class RawClient:
    """Speaks JSON-RPC by hand. A watchdog kills a server that does not answer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._input, self._output, self._errors = process.stdin, process.stdout, process.stderr

    def send(self, line: bytes | dict[str, Any]) -> None:
        self._input.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        self._input.flush()

    def answer(self, identity: int) -> dict[str, Any]:
        """The answer to a request; notifications are passed over, anything that is no message is an error."""
        with self._watched():
            for line in self._output:
                message = json.loads(line)
                if message.get("id") == identity:
                    return message
        raise AssertionError(self._errors.read().decode())

    def answers(self, identities: set[int]) -> list[dict[str, Any]]:
        """The answers to requests, in whatever order they come."""
        left, found = set(identities), list[dict[str, Any]]()
        with self._watched():
            while left and (line := self._output.readline()):
                message = json.loads(line)
                if message.get("id") in left:
                    left.remove(message["id"])
                    found.append(message)
        assert not left, self._errors.read().decode()
        return found

    def answered(self, count: int) -> set[int]:
        """The requests that the next so many messages answer, in whatever order."""
        with self._watched():
            return {json.loads(self._output.readline())["id"] for _ in range(count)}

    def start(self) -> None:
        """The handshake."""
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        self.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about})
        assert self.answer(0)["result"]["serverInfo"]["name"] == "gemma-mcp"
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def call(self, identity: int, **arguments: Any) -> dict[str, Any]:
        params = {"name": "generate_text", "arguments": arguments, "_meta": {"progressToken": identity}}
        return {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}

    def wait_for_progress(self) -> None:
        with self._watched():
            for line in self._output:
                if b"notifications/progress" in line and b"loading" not in line and b"waiting" not in line:
                    return
        raise AssertionError("no progress")

    def wait_for_words(self) -> None:
        """Until progress tells how fast the reply is written."""
        with self._watched():
            for line in self._output:
                if b"notifications/progress" in line and b"tok/s" in line:
                    return
        raise AssertionError("no words")

    def error_with(self, text: str) -> str:
        """The next line on stderr with that text in it."""
        with self._watched():
            for line in self._errors:
                if text.encode() in line:
                    return line.decode()
        raise AssertionError("stderr has ended")

    def close_input(self) -> None:
        self._input.close()
        self.process.stdin = None

    def close_output(self) -> None:
        """Hear nothing any more."""
        self._output.close()
        self.process.stdout = None

    def close_both(self) -> None:
        """Be gone, as far as the server can see."""
        self.close_output()
        self.close_input()

    def errors(self) -> str:
        """What is on stderr, up to its end."""
        return self._errors.read().decode()

    def end(self) -> tuple[int, bytes, str]:
        """Exit status, what was left on stdout, and stderr, once the server has ended by itself."""
        with self._watched():
            rest, errors = self._output.read(), self._errors.read().decode()
            return self.process.wait(), rest, errors

    @contextlib.contextmanager
    def _watched(self) -> Generator[None]:
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
