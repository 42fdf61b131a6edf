"""The pool: one engine for all, started when it is needed, replaced when it died, trusted only when it proves itself."""

import contextlib
import os
import socket
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import httpx2
import msgspec
import psutil
import pytest

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import (
    CapacityError,
    QueueFullError,
    RemoteError,
    RequestError,
    UnknownModelError,
    WorkerDiedError,
)
from gemma_mcp.state import EngineState, EngineStatus, read_state, state_path, write_state
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, ChatMessage, CompletionRequest

Chunks = AsyncIterator[ChatCompletion]


def chat(text: str, **options: object) -> ChatCompletionRequest:
    message = ChatMessage(role="user", content=text)
    return ChatCompletionRequest(model="echo", messages=(message,)).model_copy(update=options)


def text_of(chunk: ChatCompletion) -> str:
    delta = chunk.choices[0].delta if chunk.choices else None
    return (delta.content if delta else None) or ""


async def say(pool: EnginePool, text: str) -> str:
    async with pool.chat(chat(text)) as chunks:
        return "".join([text_of(chunk) async for chunk in chunks])


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.02)


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(30)


async def test_an_engine_is_started_when_the_first_request_needs_it(home: EngineHome) -> None:
    async with home.pool() as pool:
        assert await pool.running() is None
        assert not home.processes()
        assert await say(pool, "hello") == "hello"
        status = await pool.running()
    assert status is not None
    assert status.pid == home.state().pid
    assert status.same_settings
    assert [model.model for model in status.models] == ["echo"]


async def test_a_stream_tells_loading_progress_usage_timings_and_who_answered(home: EngineHome) -> None:
    async with home.pool() as pool, pool.chat(chat("hello")) as stream:
        chunks = [chunk async for chunk in stream]
    assert chunks[0].loading == 0.0
    assert any(chunk.prompt_progress is not None for chunk in chunks)
    ending = next(chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason)
    assert ending.choices[0].finish_reason == "stop"
    assert ending.timings is not None
    assert ending.gemma is not None
    assert ending.gemma.context_length == 2048
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_plain_completions_and_models_go_the_same_way(home: EngineHome) -> None:
    async with home.pool() as pool:
        async with pool.complete(CompletionRequest(model="echo", prompt="ab", suffix="c")) as stream:
            texts = [chunk.choices[0].text or "" async for chunk in stream if chunk.choices]
        assert "".join(texts) == "# 2 before, 1 after"
        assert "starter" in [card.model for card in await pool.models()]


async def test_two_pools_that_start_at_once_get_one_engine(home: EngineHome) -> None:
    replies: list[str] = []

    async def one(number: int) -> None:
        async with home.pool() as pool:
            replies.append(await say(pool, f"pool {number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(one, number)
    assert sorted(replies) == ["pool 0", "pool 1", "pool 2"]
    engines = [process for process in home.processes() if "gemma_mcp.engine.main" in process.cmdline()]
    assert [process.pid for process in engines] == [home.state().pid]


async def test_a_killed_engine_is_started_again_by_the_next_call(home: EngineHome) -> None:
    async with home.pool() as pool:
        await say(pool, "hello")
        first = home.state().pid
        kill(first)
        assert await pool.running() is None
        assert await say(pool, "hello again") == "hello again"
        assert home.state().pid != first


async def test_an_engine_that_dies_before_the_first_token_is_replaced_unnoticed(
    home: EngineHome, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with home.pool() as pool:
        async with pool.chat(chat(f"!hold {gate} done")) as stream:
            texts: list[str] = []
            killed = False
            async for chunk in stream:
                texts.append(text_of(chunk))
                if chunk.prompt_progress is not None and not killed:
                    killed = True
                    kill(home.state().pid)
                    gate.touch()
        assert killed
        assert "".join(texts) == "done"


async def test_an_engine_that_dies_after_the_first_token_is_one_clear_error(home: EngineHome) -> None:
    async with home.pool() as pool:
        with pytest.raises(RemoteError, match="ended"):
            async with pool.chat(chat("!slow 0.05 " + "x" * 500)) as stream:
                async for chunk in stream:
                    if text_of(chunk):
                        kill(home.state().pid)
        assert await say(pool, "hello") == "hello"


async def test_an_engine_that_dies_again_is_not_started_for_ever(home: EngineHome, tmp_path: Path) -> None:
    kills = 0
    async with home.pool() as pool:
        with pytest.raises(RemoteError, match="ended"):
            async with pool.chat(chat(f"!hold {tmp_path / 'never'} x")) as stream:
                async for chunk in stream:
                    if chunk.prompt_progress is not None and chunk.prompt_progress.processed == 0:
                        kills += 1
                        kill(home.state().pid)
    assert kills == 2


async def test_leaving_a_stream_ends_its_request(home: EngineHome, tmp_path: Path) -> None:
    async def running(pool: EnginePool) -> list[int]:
        status = await pool.running()
        return [model.running for model in status.models] if status else []

    async with home.pool() as pool:
        async with pool.chat(chat(f"!hold {tmp_path / 'never'} x")) as stream:
            async for chunk in stream:
                if chunk.prompt_progress is not None:
                    break
            assert await running(pool) == [1]
        with anyio.fail_after(30):
            while await running(pool) != [0]:
                await anyio.sleep(0.02)


async def test_cancelling_the_caller_ends_its_request(home: EngineHome, tmp_path: Path) -> None:
    async with home.pool() as pool:
        await say(pool, "load the model")
        with anyio.move_on_after(0.5) as scope:
            await say(pool, f"!hold {tmp_path / 'never'} x")
        assert scope.cancelled_caught
        with anyio.fail_after(30):
            while [model.running for model in (await status_of(pool)).models] != [0]:
                await anyio.sleep(0.02)


async def status_of(pool: EnginePool) -> EngineStatus:
    status = await pool.running()
    assert status is not None
    return status


async def test_errors_arrive_as_themselves(home: EngineHome, tmp_path: Path) -> None:
    async with home.pool() as pool:
        with pytest.raises(UnknownModelError) as unknown:
            async with pool.chat(chat("x", model="gemini")) as stream:
                await anext(stream)
        assert "starter" in unknown.value.known
        with pytest.raises(WorkerDiedError):
            await say(pool, "!die x")
        assert await say(pool, "alive") == "alive"


async def test_a_full_queue_is_a_capacity_error_with_a_hint(home: EngineHome, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waiting: list[int] = []
    replies: list[str] = []

    async def hold(pool: EnginePool, number: int) -> None:
        async with pool.chat(chat(f"!hold {gate} {number}")) as stream:
            async for chunk in stream:
                if chunk.queue_place is not None:
                    waiting.append(chunk.queue_place)
                replies.append(text_of(chunk))

    async with home.pool() as pool:
        await say(pool, "load the model")
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(hold, pool, number)
            with anyio.fail_after(30):
                while (await status_of(pool)).models[0].waiting != 2:
                    await anyio.sleep(0.02)
            with pytest.raises(QueueFullError, match="Try again"):
                await say(pool, "one too many")
            gate.touch()
    assert sorted(filter(None, replies)) == ["0", "1", "2", "3"]
    assert {1, 2} <= set(waiting)


async def test_text_that_is_no_unicode_is_refused_before_it_is_sent(home: EngineHome) -> None:
    broken = ChatMessage.model_construct(role="user", content="a\ud800b")
    async with home.pool() as pool:
        with pytest.raises(RequestError, match="Unicode"):
            async with pool.chat(chat("x", messages=(broken,))) as stream:
                await anext(stream)
    assert not home.processes()


# -- who is believed --------------------------------------------------------------------------------------------------


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


# -- start and end ----------------------------------------------------------------------------------------------------


async def test_settings_of_flags_reach_the_engine(home: EngineHome) -> None:
    changed = home.settings.model_copy(update={"llamacpp": home.settings.llamacpp.model_copy(update={"context": 512})})
    async with EnginePool(changed, home.places, home.environ) as pool:
        async with pool.chat(chat("hello")) as stream:
            cards = [chunk.gemma async for chunk in stream if chunk.gemma]
        assert cards[0].context_length == 512
        assert (await status_of(pool)).same_settings


async def test_an_engine_that_does_not_start_says_why(new_home: Callable[..., EngineHome]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        home = new_home(engine_port=str(listener.getsockname()[1]))
        async with home.pool() as pool:
            with pytest.raises(RemoteError, match=r"did not start: .*engine\.port: port \d+ cannot be used") as caught:
                await pool.models()
    assert str(home.places.logs) in caught.value.hint
    assert not home.processes()


async def test_an_engine_that_is_not_ready_in_time_is_said_to_be_late(new_home: Callable[..., EngineHome]) -> None:
    home = new_home(engine_start_timeout="0.01")
    async with home.pool() as pool:
        with pytest.raises(RemoteError, match=r"not ready within 0\.01 seconds"):
            await pool.models()
        await until(lambda: read_state(home.places) is not None)
        assert [card.model for card in await pool.models()] != []


async def test_an_engine_does_not_import_from_the_users_folder(
    home: EngineHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "gemma_mcp").mkdir(parents=True)
    (project / "gemma_mcp" / "__init__.py").write_text("raise SystemExit('hijacked')", encoding="utf-8")
    (project / "uvicorn.py").write_text("raise SystemExit('hijacked')", encoding="utf-8")
    monkeypatch.chdir(project)
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"


async def test_stop_ends_the_engine_and_its_workers(home: EngineHome) -> None:
    async with home.pool() as pool:
        assert await pool.stop() is False
        await say(pool, "hello")
        assert len(home.processes()) == 2
        assert await pool.stop() is True
        assert await pool.running() is None
        await until(lambda: not home.processes())
    assert read_state(home.places) is None


async def test_stop_ends_a_running_request_with_one_clear_reason(home: EngineHome, tmp_path: Path) -> None:
    async with home.pool() as pool:
        with pytest.raises(CapacityError, match="stopped"):
            async with pool.chat(chat(f"!hold {tmp_path / 'never'} x")) as stream:
                async for chunk in stream:
                    if chunk.prompt_progress is not None:
                        assert await pool.stop() is True


async def test_stop_with_drain_lets_a_running_request_finish(home: EngineHome, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    said = ""
    async with home.pool() as pool, pool.chat(chat(f"!hold {gate} finished")) as stream:
        async for chunk in stream:
            said += text_of(chunk)
            if chunk.prompt_progress is not None and not gate.exists():
                assert await pool.stop(drain=True) is True
                gate.touch()
    assert said == "finished"
    await until(lambda: not home.processes())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
async def test_sigterm_lets_a_running_request_finish(home: EngineHome, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    said = ""
    async with home.pool() as pool, pool.chat(chat(f"!hold {gate} finished")) as stream:
        async for chunk in stream:
            said += text_of(chunk)
            if chunk.prompt_progress is not None and not gate.exists():
                pid = home.state().pid
                psutil.Process(pid).terminate()
                await until(lambda: read_state(home.places) is None)
                gate.touch()
    assert said == "finished"


async def test_an_idle_engine_ends_itself(new_home: Callable[..., EngineHome]) -> None:
    home = new_home(engine_idle_exit="0.2")
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"
    await until(lambda: not home.processes())
    assert read_state(home.places) is None
    assert "Idle for 0.2 seconds" in (home.places.logs / "engine.log").read_text(encoding="utf-8")


async def test_an_unused_model_is_unloaded(new_home: Callable[..., EngineHome]) -> None:
    home = new_home(engine_keep_alive="0.1")
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"
        with anyio.fail_after(30):
            while (await status_of(pool)).models:
                await anyio.sleep(0.02)
        await until(lambda: len(home.processes()) == 1)
        assert await say(pool, "hello again") == "hello again"


async def test_a_second_engine_refuses_to_start(home: EngineHome) -> None:
    async with home.pool() as pool:
        await pool.models()
        command = [sys.executable, "-m", "gemma_mcp.engine.main"]
        with anyio.fail_after(60):
            done = await anyio.run_process(command, env=home.environ, check=False)
        assert done.returncode == 1
        assert b"An engine is running already." in done.stderr
        assert (await status_of(pool)).pid == home.state().pid


async def test_a_wrong_setting_keeps_the_engine_from_starting(home: EngineHome) -> None:
    environ = {**home.environ, "GEMMA_MCP_ENGINE_PROT": "1"}
    with anyio.fail_after(60):
        done = await anyio.run_process([sys.executable, "-m", "gemma_mcp.engine.main"], env=environ, check=False)
    assert done.returncode == 1
    assert b"GEMMA_MCP_ENGINE_PROT" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_the_engine_is_no_child_of_the_pools_session(home: EngineHome) -> None:
    async with home.pool() as pool:
        await pool.models()
    if sys.platform != "win32":
        assert os.getsid(home.state().pid) != os.getsid(0)
