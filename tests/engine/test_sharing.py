"""Prompts that begin alike: what is computed once, who waits for whom, and what becomes of those who are left."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from echo_scheduling import InProcess, ask, finished, first, picture, reply, scheduled, until, user

from gemma_mcp.engine.backend import TokenRow
from gemma_mcp.engine.scheduler import Scheduler
from gemma_mcp.testing.echo import CHECKPOINT_BYTES
from gemma_mcp.types import Delta, Event, GenerationRequest, Prefill, Text

SHARED = "One instruction for many files, which is rather long. " * 4
FRAME = len(b"user\n") + 2
"""Tokens before what a user says: two control tokens and the role."""


def computed(executor: InProcess) -> int:
    """Tokens in all rows so far, those of decoding left out."""
    rows = [row for step in executor.steps for row in step.rows if isinstance(row, TokenRow)]
    return sum(len(row.tokens) for row in rows if len(row.tokens) > 1 and not row.draft)


async def replies(scheduler: Scheduler, texts: list[str]) -> dict[str, list[Event]]:
    """Ask all at once; what came of each."""
    events: dict[str, list[Event]] = {}

    async def one(text: str) -> None:
        said, events[text] = await reply(scheduler, ask(text))
        assert said == text

    async with anyio.create_task_group() as tasks:
        for text in texts:
            tasks.start_soon(one, text)
    return events


async def text_of(stream: AsyncIterator[Event]) -> str:
    return "".join([event.text async for event in stream if isinstance(event, Delta)])


@pytest.mark.parametrize("window", [0, 24])
@pytest.mark.parametrize("chunk", [16, 256])
async def test_requests_that_come_together_compute_their_common_beginning_once(chunk: int, window: int):
    texts = [f"{SHARED}{name}." for name in ("alpha", "beta", "gamma", "delta")]
    async with scheduled(prefill_chunk=chunk, window=window, checkpoint_bytes=10**6) as (scheduler, executor):
        events = await replies(scheduler, texts)
        prompts = {text: finished(said).usage for text, said in events.items()}
        alone = max(usage.prompt_tokens for usage in prompts.values())
        assert computed(executor) < alone + 4 * 32
        assert scheduler.stats.forks == 3
    shared = FRAME + len(SHARED)
    assert sorted(usage.cached_tokens for usage in prompts.values()) == [0, shared, shared, shared]


async def test_more_requests_than_slots_share_as_well():
    texts = [f"{SHARED}file {number}." for number in range(12)]
    async with scheduled(slots=3, queue_limit=20) as (scheduler, executor):
        events = await replies(scheduler, texts)
        assert computed(executor) < len(SHARED) + 12 * 48
    assert [finished(said).usage.cached_tokens for said in events.values()].count(0) == 1


async def test_a_request_begins_as_a_fork_of_one_that_is_answered_still(tmp_path: Path):
    async with scheduled() as (scheduler, _):
        async with scheduler.stream(ask(f"!hold {tmp_path / 'go'} {SHARED}first")) as held:
            await first(held, Prefill)
            (tmp_path / "go").touch()
            await first(held, Delta)
            text, events = await reply(scheduler, ask(f"!hold {tmp_path / 'go'} {SHARED}second"))
            assert (await text_of(held)).endswith("first")
    assert text == f"{SHARED}second"
    assert finished(events).usage.cached_tokens > len(SHARED)


async def test_followers_are_told_how_far_their_leader_is(tmp_path: Path):
    async with scheduled(prefill_chunk=16) as (scheduler, _):
        events = await replies(scheduler, [f"{SHARED}one", f"{SHARED}two"])
    following = next(said for said in events.values() if finished(said).usage.cached_tokens)
    done = [event.done_tokens for event in following if isinstance(event, Prefill)]
    assert done == sorted(done)
    assert len([count for count in done if count < len(SHARED)]) > 5


async def test_some_part_later_than_others():
    texts = [f"{SHARED}{name}" for name in ("x", "y" * 50 + "1", "y" * 50 + "2", "y" * 50 + "3")]
    async with scheduled() as (scheduler, executor):
        events = await replies(scheduler, texts)
        assert computed(executor) < len(SHARED) + 50 + 4 * 32
    cached = sorted(finished(said).usage.cached_tokens for said in events.values())
    assert cached == [0, FRAME + len(SHARED), FRAME + len(SHARED) + 50, FRAME + len(SHARED) + 50]


async def test_what_a_cancelled_leader_had_computed_serves_its_followers(tmp_path: Path):
    order = f"!slow 0.01 {SHARED}"
    async with scheduled(prefill_chunk=16) as (scheduler, executor):
        said: dict[str, str] = {}

        async def follow(name: str) -> None:
            said[name], _ = await reply(scheduler, ask(order + name))

        async with anyio.create_task_group() as tasks:
            async with scheduler.stream(ask(f"{order}leader")) as leader:
                await first(leader, Prefill)
                tasks.start_soon(follow, "one")
                tasks.start_soon(follow, "two")
                await until(lambda: scheduler.stats.running == 3 and computed(executor) > 64)
        assert said == {"one": f"{SHARED}one", "two": f"{SHARED}two"}
        assert computed(executor) < 2 * len(order)


async def test_a_beginning_behind_the_window_is_found_again_by_its_checkpoint():
    async with scheduled(window=16, slots=2, prefill_chunk=32, checkpoint_bytes=10**6) as (scheduler, executor):
        await replies(scheduler, [f"{SHARED}{'a' * 90}", f"{SHARED}{'b' * 90}"])
        before = computed(executor)
        text, events = await reply(scheduler, ask(f"{SHARED}once more"))
        assert computed(executor) - before < 64
    assert text == f"{SHARED}once more"
    assert finished(events).usage.cached_tokens == FRAME + len(SHARED)


async def test_a_beginning_that_was_lost_once_is_kept_the_next_time():
    async with scheduled(window=16, slots=1, prefill_chunk=32, checkpoint_bytes=10**6) as (scheduler, _):
        cached: list[int] = []
        for name in "abc":
            _, events = await reply(scheduler, ask(f"{SHARED}{name * 90}"))
            cached.append(finished(events).usage.cached_tokens)
    assert cached == [0, 0, FRAME + len(SHARED)]


async def test_checkpoints_stay_within_their_bytes():
    async with scheduled(window=16, slots=2, prefill_chunk=32, checkpoint_bytes=2 * CHECKPOINT_BYTES) as (
        scheduler,
        executor,
    ):
        for number in range(6):
            await replies(scheduler, [f"{number}{SHARED}{name * 90}" for name in "ab"])
        made = [save.checkpoint for step in executor.steps for save in step.saves]
        dropped = [number for step in executor.steps for number in step.drops]
    assert len(made) >= 6
    assert len(made) - len(dropped) <= 3
    assert set(dropped) < set(made)


async def test_no_checkpoints_are_made_when_they_may_take_nothing():
    async with scheduled(window=16, slots=1, prefill_chunk=32) as (scheduler, executor):
        for name in "ab":
            await reply(scheduler, ask(f"{SHARED}{name * 90}"))
        assert not any(step.saves for step in executor.steps)


async def test_a_conversation_keeps_its_slot_when_another_begins_like_it():
    async with scheduled(slots=2) as (scheduler, _):
        long = f"{SHARED}and then " + "a long story " * 10
        await reply(scheduler, ask(long))
        await reply(scheduler, ask(f"{SHARED}something else"))
        _, events = await reply(scheduler, ask(f"{long}which goes on"))
    assert finished(events).usage.cached_tokens == FRAME + len(long)


async def test_requests_that_decline_reuse_share_nothing():
    async with scheduled() as (scheduler, _):
        async with anyio.create_task_group() as tasks:
            for name in "ab":
                tasks.start_soon(reply, scheduler, ask(SHARED + name, reuse_prefix=False))
        assert scheduler.stats.cached_tokens == scheduler.stats.forks == 0


async def test_images_are_shared_whole():
    requests = [
        GenerationRequest(segments=user(f" {name}", Text(SHARED), picture(10), Text(SHARED))) for name in ("one", "two")
    ]
    async with scheduled() as (scheduler, executor):
        said: list[str] = []

        async def one(request: GenerationRequest) -> None:
            said.append((await reply(scheduler, request))[0])

        async with anyio.create_task_group() as tasks:
            for request in requests:
                tasks.start_soon(one, request)
        rows = [type(row).__name__ for step in executor.steps for row in step.rows]
        assert rows.count("MediaRow") == 1
    assert sorted(said) == [f"{SHARED}[image 10x8]{SHARED} {name}" for name in ("one", "two")]


async def test_short_beginnings_are_not_worth_a_fork():
    async with scheduled() as (scheduler, _):
        await replies(scheduler, ["a few words", "a few others"])
        assert scheduler.stats.forks == 0


@pytest.mark.parametrize("chunk", [16, 17, 18, 19, 20, 21])
async def test_a_chunk_may_end_anywhere_in_an_order(chunk: int):
    async with scheduled(prefill_chunk=chunk) as (scheduler, _):
        text, _ = await reply(scheduler, ask("!repeat 12 x"))
    assert text == "x" * 12
