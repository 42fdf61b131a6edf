"""Engines that are killed or hang at every moment, many servers at once, clocks that jump."""

import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest
from talking import busy, chat, kill, say, status_of, text_of, until

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import DeadlineError, GemmaError, QueueFullError, RemoteError
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.testing.errors import assert_plain

posix = pytest.mark.skipif(sys.platform == "win32", reason="suspended processes are POSIX")


def engines(home: EngineHome) -> list[psutil.Process]:
    """The engine processes of a home; workers are left out."""
    return [process for process in home.processes() if "gemma_mcp.engine.main" in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def next_engine(home: EngineHome, known: set[int]) -> psutil.Process:
    """An engine that was not there before, as soon as its process exists."""
    with anyio.fail_after(60):
        while True:
            for process in engines(home):
                if process.pid not in known:
                    return process
            await anyio.lowlevel.checkpoint()


async def test_an_engine_killed_while_a_request_queues_is_replaced_unnoticed(home: EngineHome, tmp_path: Path) -> None:
    gate, replies, places = tmp_path / "gate", dict[int, str](), list[int]()

    async def ask(pool: EnginePool, number: int) -> None:
        said = ""
        async with pool.chat(chat(f"!hold {gate} {number}")) as stream:
            async for chunk in stream:
                places.extend([chunk.queue_place] if chunk.queue_place else [])
                said += text_of(chunk)
        replies[number] = said

    async with home.pool() as pool:
        await say(pool, "load the model")
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(ask, pool, number)
            with anyio.fail_after(30):
                while sum(await busy(pool)) != 3:  # the first one's step may hold the second off its free slot
                    await anyio.sleep(0.02)
            kill(home.state().pid)
            gate.touch()
    assert places
    assert replies == {0: "0", 1: "1", 2: "2"}


@pytest.mark.parametrize("kills", [1, 2])
async def test_an_engine_killed_while_two_servers_start_it(home: EngineHome, kills: int) -> None:
    """Killed once it is started again; killed again it is one clear error for whoever started it, and no hang."""
    results: list[str | GemmaError] = []

    async def one(number: int) -> None:
        async with home.pool() as pool:
            try:
                results.append(await say(pool, f"server {number}"))
            except GemmaError as error:
                results.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(one, number)
        known: set[int] = set()
        for _ in range(kills):
            engine = await next_engine(home, known)
            known.add(engine.pid)
            engine.kill()
    errors = [result for result in results if isinstance(result, GemmaError)]
    assert len(results) == 2
    assert len(errors) == kills - 1
    for error in errors:
        assert isinstance(error, RemoteError)
        assert_plain(error)
    assert len(engines(home)) == 1


async def test_an_engine_that_dies_is_one_clear_error_in_words(home: EngineHome) -> None:
    async def cut(pool: EnginePool) -> None:
        async with pool.chat(chat("!slow 0.05 " + "x" * 500)) as stream:
            async for chunk in stream:
                if text_of(chunk):
                    kill(home.state().pid)

    async with home.pool() as pool:
        with pytest.raises(RemoteError) as caught:
            await cut(pool)
    assert_plain(caught.value)


@posix
async def test_calls_to_a_hung_engine_end_with_one_clear_reason(
    home: EngineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma_mcp.client.connect.HANDSHAKE_SECONDS", 0.3)
    async with home.pool() as pool:
        await say(pool, "hello")
        engine = psutil.Process(home.state().pid)
        engine.suspend()
        errors: list[GemmaError] = []

        async def ask() -> None:
            with pytest.raises(RemoteError) as caught:
                await say(pool, "anybody there?")
            errors.append(caught.value)

        try:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(ask)
        finally:
            engine.resume()
        for error in errors:
            assert f"process {engine.pid}" in error.message
            assert_plain(error)
        assert await say(pool, "awake again") == "awake again"
        assert [process.pid for process in engines(home)] == [engine.pid]


async def test_a_hundred_servers_start_and_share_one_engine(new_home: Callable[..., EngineHome]) -> None:
    home = new_home(engine_queue_limit="100", engine_start_timeout="60")
    replies: set[str] = set()

    async def one(number: int) -> None:
        async with home.pool() as pool:
            replies.add(await say(pool, f"server {number}"))

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, number)
    assert replies == {f"server {number}" for number in range(100)}
    assert [process.pid for process in engines(home)] == [home.state().pid]


async def test_fifty_calls_beyond_the_queue_get_an_answer_or_one_clear_refusal(
    home: EngineHome, tmp_path: Path
) -> None:
    gate, replies, refusals = tmp_path / "gate", list[str](), list[GemmaError]()

    async def ask(pool: EnginePool, number: int) -> None:
        try:
            replies.append(await say(pool, f"!hold {gate} {number}"))
        except GemmaError as error:
            refusals.append(error)

    async with home.pool() as pool:
        await say(pool, "load the model")
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ask, pool, number)
            await until(lambda: len(refusals) == 46)  # two slots, and two that may wait
            gate.touch()
        assert len(replies) == len(set(replies)) == 4
        assert {type(error) for error in refusals} == {QueueFullError}
        assert_plain(refusals[0])
        assert await busy(pool) == (0, 0)
        assert await say(pool, "after the rush") == "after the rush"


JUMPING = """
import itertools, sys, time
real, jumps = time.time, itertools.cycle((0.0, 1e7, -1e7, 3e8))
time.time = lambda: real() + next(jumps)
from {module} import main
sys.exit(main())
"""
"""A process whose wall clock jumps by months, to and fro, whenever somebody looks at it."""


async def test_a_clock_that_jumps_unloads_no_model_and_ends_no_request_and_no_engine(
    new_home: Callable[..., EngineHome],
) -> None:
    home = new_home(engine_keep_alive="60", engine_idle_exit="60")
    command = [sys.executable, "-c", JUMPING.format(module="gemma_mcp.engine.main")]
    async with await anyio.open_process(command, env=home.environ, stdout=None, stderr=None), home.pool() as pool:
        await until(lambda: bool(home.places.state.exists() and any(home.places.state.glob("engine.json"))))
        pid = home.state().pid
        assert await say(pool, "!slow 0.02 " + "x" * 30, deadline_seconds=30.0) == "x" * 30
        first = (await status_of(pool)).models
        assert await say(pool, "still there") == "still there"
        status = await status_of(pool)
        assert (status.pid, [model.model for model in status.models]) == (pid, ["echo"])
        assert [model.model for model in first] == ["echo"]
        with pytest.raises(DeadlineError):
            await say(pool, "!slow 5 x", deadline_seconds=0.3)
        assert len([process for process in home.processes() if process.pid != pid]) == 1  # the first worker
        assert await pool.stop()


@posix
async def test_a_hung_engine_is_ended_though_the_clock_has_jumped(
    home: EngineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes tell when they started by the wall clock; so nothing may hang on that."""
    monkeypatch.setattr("gemma_mcp.client.connect.HANDSHAKE_SECONDS", 0.3)

    def in_the_future(process: psutil.Process) -> float:
        return 4e9

    async with home.pool() as pool:
        await say(pool, "hello")
        pid = home.state().pid
        psutil.Process(pid).suspend()
        with monkeypatch.context() as patch:
            patch.setattr(psutil.Process, "create_time", in_the_future)
            assert await pool.stop()
        assert not psutil.pid_exists(pid)
        assert await say(pool, "hello again") == "hello again"
