"""Who gets what of a step, who goes before whom, and who gives way."""

from pathlib import Path

import anyio
import pytest
from echo_scheduling import InProcess, ask, finished, first, reply, scheduled, until

from gemma_mcp.engine.backend import TokenRow
from gemma_mcp.engine.pace import FEWEST_TOKENS, Pace
from gemma_mcp.types import Delta, Prefill, Queued


def prompt_rows(executor: InProcess) -> list[dict[int, int]]:
    """Tokens of prompts in each step, by slot."""
    rows = [[row for row in step.rows if isinstance(row, TokenRow)] for step in executor.steps]
    return [{row.slot: len(row.tokens) for row in step if len(row.tokens) > 1 and not row.draft} for step in rows]


@pytest.mark.parametrize("token_seconds", [0.001, 0.01])
def test_prompts_stretch_a_step_as_far_as_they_may(token_seconds: float):
    pace = Pace(512, 3.0)
    pace.took(4, 0, 0.05)
    for _ in range(50):
        tokens = pace.budget(4)
        pace.took(4, tokens, 0.05 + tokens * token_seconds)
    longest = 0.05 + pace.budget(4) * token_seconds
    assert 0.15 - 4 * token_seconds < longest < 0.15 * 1.1


def test_a_prompt_gets_on_however_slow_the_machine_is():
    pace = Pace(512, 1.1)
    pace.took(1, 0, 0.01)
    for _ in range(50):
        pace.took(1, pace.budget(1), 5.0)
    assert 0 < pace.budget(1) <= FEWEST_TOKENS


def test_a_step_comes_out_in_whole_tiles():
    pace = Pace(512, 3.0)
    for decoding in range(1, 9):
        assert (decoding + pace.budget(decoding)) % 4 == 0
        pace.took(decoding, 0, 0.01 * decoding)
    pace.took(1, 10, 0.013)
    for decoding in range(1, 9):
        assert (decoding + pace.budget(decoding)) % 4 == 0


def test_where_nobody_reads_a_prompt_takes_the_whole_step():
    pace = Pace(512, 1.1)
    pace.took(0, 512, 9.0)
    assert pace.budget(0) == 512


def test_the_pace_of_other_numbers_of_rows_is_taken_from_the_nearest():
    pace = Pace(512, 3.0)
    pace.took(1, 0, 0.01)
    pace.took(8, 0, 0.08)
    pace.took(1, 10, 0.02)
    assert pace.budget(7) > 4 * pace.budget(2)


async def test_a_short_prompt_is_read_beside_a_long_one():
    async with scheduled(prefill_chunk=64, context_length=8192) as (scheduler, executor):
        async with scheduler.stream(ask("long " * 800, reuse_prefix=False)) as long:
            await first(long, Prefill)
            text, _ = await reply(scheduler, ask("short " * 20, reuse_prefix=False))
            both = [step for step in prompt_rows(executor) if len(step) == 2]
            assert text == "short " * 20
            assert await first(long, Prefill) is None
    assert 3 <= len(both) <= 6
    assert all(max(step.values()) == 32 for step in both[:-1])


async def test_prompts_of_one_length_are_read_one_after_the_other():
    async with scheduled(prefill_chunk=64) as (scheduler, executor):
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(reply, scheduler, ask(name * 200, reuse_prefix=False, max_tokens=1))
        alone = [step for step in prompt_rows(executor) if len(step) == 1]
        assert len(alone) >= len(prompt_rows(executor)) - 4


async def test_what_people_wait_for_goes_before_bulk_in_the_queue(tmp_path: Path):
    gate, order = tmp_path / "go", list[str]()

    async with scheduled(slots=1) as (scheduler, _):

        async def one(name: str, priority: str) -> None:
            order.append((await reply(scheduler, ask(name, priority=priority)))[0])

        async with anyio.create_task_group() as tasks, scheduler.stream(ask(f"!hold {gate} x")) as held:
            await first(held, Prefill)
            for number in range(3):
                tasks.start_soon(one, f"bulk {number}", "bulk")
                await until(lambda number=number: scheduler.stats.waiting == number + 1)
            tasks.start_soon(one, "interactive", "interactive")
            await until(lambda: scheduler.stats.waiting == 4)
            gate.touch()
            assert await first(held, Delta) is None
    assert order == ["interactive", "bulk 0", "bulk 1", "bulk 2"]


async def test_bulk_that_was_passed_often_gets_its_turn(tmp_path: Path):
    gate, order = tmp_path / "go", list[str]()

    async with scheduled(slots=1, queue_limit=30) as (scheduler, _):

        async def one(name: str, priority: str) -> None:
            order.append((await reply(scheduler, ask(name, priority=priority)))[0])

        async with anyio.create_task_group() as tasks, scheduler.stream(ask(f"!hold {gate} x")) as held:
            await first(held, Prefill)
            tasks.start_soon(one, "bulk", "bulk")
            await until(lambda: scheduler.stats.waiting == 1)
            for number in range(12):
                tasks.start_soon(one, f"interactive {number}", "interactive")
                await until(lambda number=number: scheduler.stats.waiting == number + 2)
            gate.touch()
            assert await first(held, Delta) is None
    assert order.index("bulk") == 8


async def test_a_bulk_request_gives_its_slot_to_one_that_somebody_waits_for_and_goes_on_after_it():
    long = "a story that goes on " * 20
    async with scheduled(slots=1) as (scheduler, _):
        said: list[str] = []

        async def bulk() -> None:
            text, events = await reply(scheduler, ask(long, priority="bulk"))
            said.append(text)
            assert finished(events).usage.completion_tokens == len(long)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bulk)
            await until(lambda: scheduler.stats.completion_tokens > 5)
            said.append((await reply(scheduler, ask("at once")))[0])
        assert scheduler.stats.preemptions == 1
    assert said == ["at once", long]


async def test_bulk_does_not_give_way_to_bulk_nor_interactive_to_interactive():
    async with scheduled(slots=1) as (scheduler, _):
        for priority in ("bulk", "interactive"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reply, scheduler, ask("word " * 50, priority=priority))
                tasks.start_soon(reply, scheduler, ask("more " * 50, priority=priority))
        assert scheduler.stats.preemptions == 0


async def test_a_job_that_gives_way_is_told_its_place():
    async with scheduled(slots=1) as (scheduler, _), scheduler.stream(ask("slow " * 50, priority="bulk")) as bulk:
        await first(bulk, Delta)
        await reply(scheduler, ask("at once"))
        places = [event.place async for event in bulk if isinstance(event, Queued)]
    assert places == [2, 1]
