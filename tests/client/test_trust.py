"""Which listener is believed to be the engine, and which engine is good enough."""

import contextlib
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx2
import msgspec
import psutil
import pytest
from talking import say, status_of, until

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import (
    RemoteError,
)
from gemma_mcp.state import EngineState, state_path, write_state
from gemma_mcp.testing.engines import EngineHome


class Liar:
    """Listens like an engine, answers any health check with a proof of its own making, and writes down all it hears."""

    def __init__(self, answer: bytes) -> None:
        self.heard = b""
        self.visited = threading.Event()
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.heard += connection.recv(65536)
                    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self._answer)}\r\nconnection: close\r\n\r\n"
                    connection.sendall(head.encode() + self._answer)
                self.visited.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


LIES = [
    b'{"status": "ok", "version": "0.1.0", "wire_version": 1, "proof": "' + b"0" * 64 + b'"}',
    b'{"status": "ok", "version": "0.1.0", "wire_version": 1}',
    b"<html>hello</html>",
]


@pytest.fixture(params=LIES, ids=["wrong proof", "no proof", "no engine"])
def liar(request: pytest.FixtureRequest) -> Iterator[Liar]:
    one = Liar(request.param)
    yield one
    one.close()


def stale(port: int) -> EngineState:
    return EngineState(
        pid=os.getpid(),
        port=port,
        token="the-secret-token",
        wire_version=1,
        version="0.1.0",
        fingerprint="x",
        started=0.0,
    )


async def test_a_liar_on_the_port_learns_neither_token_nor_prompt(home: EngineHome, liar: Liar) -> None:
    write_state(home.places, stale(liar.port))
    async with home.pool() as pool:
        assert await pool.running() is None
        assert await pool.stop() is False
        assert await say(pool, "a private prompt") == "a private prompt"
    assert liar.visited.is_set()
    assert b"GET /health" in liar.heard
    assert b"the-secret-token" not in liar.heard
    assert b"private" not in liar.heard
    assert home.state().port != liar.port


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"pid": "one"}'])
async def test_a_state_file_that_makes_no_sense_is_replaced(home: EngineHome, content: bytes) -> None:
    path = state_path(home.places)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    async with home.pool() as pool:
        assert await pool.running() is None
        assert await say(pool, "hello") == "hello"


async def test_a_state_file_of_an_engine_that_is_gone_is_replaced(home: EngineHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write_state(home.places, stale(port))
    async with home.pool() as pool:
        assert await pool.running() is None
        assert await say(pool, "hello") == "hello"


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
async def test_the_state_file_is_readable_by_the_user_alone(home: EngineHome) -> None:
    async with home.pool() as pool:
        await pool.models()
    assert stat.S_IMODE(state_path(home.places).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.places.state.stat().st_mode) == 0o700


async def test_an_engine_of_an_older_wire_version_is_drained_and_replaced(home: EngineHome, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    replies: list[str] = []
    async with home.pool() as pool:
        await pool.models()
        old = home.state()
        write_state(home.places, msgspec.structs.replace(old, wire_version=0))
        headers = {"authorization": f"Bearer {old.token}"}
        body = {"model": "echo", "messages": [{"role": "user", "content": f"!hold {gate} begun before"}]}

        async def earlier() -> None:
            async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
                reply = await http.post(f"{old.url}/v1/chat/completions", json=body, headers=headers)
                replies.append(reply.json()["choices"][0]["message"]["content"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(earlier)
            with anyio.fail_after(30):
                while "running=1" not in str(await status_of(pool)):
                    await anyio.sleep(0.02)
            assert await say(pool, "hello") == "hello"
            assert home.state().pid != old.pid
            assert psutil.pid_exists(old.pid)
            gate.touch()
        assert replies == ["begun before"]
        await until(lambda: not psutil.pid_exists(old.pid))


async def test_an_engine_of_a_newer_wire_version_is_left_alone(home: EngineHome) -> None:
    async with home.pool() as pool:
        await pool.models()
        newer = msgspec.structs.replace(home.state(), wire_version=99, version="9.0")
        write_state(home.places, newer)
        with pytest.raises(RemoteError, match=r"version 9\.0, newer than this program"):
            await pool.models()
        assert home.state() == newer


async def test_an_engine_with_other_settings_is_used_and_reported(home: EngineHome) -> None:
    async with home.pool() as pool:
        await pool.models()
    changed = home.settings.model_copy(update={"llamacpp": home.settings.llamacpp.model_copy(update={"context": 1024})})
    async with EnginePool(changed, home.places, home.environ) as pool:
        status = await status_of(pool)
        assert not status.same_settings
        assert await say(pool, "hello") == "hello"
