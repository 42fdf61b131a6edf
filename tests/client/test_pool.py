"""The pool: requests reach an engine that starts when needed, and survive its death where that is safe."""

from pathlib import Path

import anyio
import pytest
from talking import busy, chat, kill, killed_at, say, status_of, text_of

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import (
    QueueFullError,
    RemoteError,
    RequestError,
    UnknownModelError,
    WorkerDiedError,
)
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.wire import ChatCompletion, ChatMessage, CompletionRequest


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
        killing = killed_at(home, pool, "!slow 0.05 " + "x" * 500, lambda chunk: bool(text_of(chunk)))
        with pytest.raises(RemoteError, match="ended"):
            await killing
        assert await say(pool, "hello") == "hello"


async def test_an_engine_that_dies_again_is_not_started_for_ever(home: EngineHome, tmp_path: Path) -> None:
    kills: list[int] = []

    def begun(chunk: ChatCompletion) -> bool:
        if chunk.prompt_progress is None or chunk.prompt_progress.processed:
            return False
        kills.append(home.state().pid)
        return True

    async with home.pool() as pool:
        killing = killed_at(home, pool, f"!hold {tmp_path / 'never'} x", begun)
        with pytest.raises(RemoteError, match="ended"):
            await killing
    assert len(set(kills)) == 2


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
                while sum(await busy(pool)) != 4:
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
