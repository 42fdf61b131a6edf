"""Real worker processes that are killed from outside, at every moment of their lives."""

import os
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest
from model_readers import WAIT_SECONDS, Reader, ask, kill, opened

from gemma_mcp.errors import GemmaError, LoadFailedError, WorkerDiedError


def workers() -> list[psutil.Process]:
    """The worker processes of this test, alive ones."""
    children = psutil.Process().children()
    return [
        child
        for child in children
        if child.status() != psutil.STATUS_ZOMBIE and "gemma_mcp.engine.worker" in child.cmdline()
    ]


async def next_worker(known: set[int]) -> psutil.Process:
    """A worker process that was not there before. Processes cannot be waited for before they exist."""
    with anyio.fail_after(WAIT_SECONDS):
        while True:
            for worker in workers():
                if worker.pid not in known:
                    return worker
            await anyio.lowlevel.checkpoint()


async def test_a_worker_killed_while_decoding_costs_its_requests_nothing_but_time(tmp_path: Path) -> None:
    readers = [Reader(), Reader()]
    wanted = ["abcdefghij" * 4, "0123456789" * 4]
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path) as model, anyio.create_task_group() as tasks:
            for reader, text in zip(readers, wanted, strict=True):
                tasks.start_soon(reader.read, model, ask(f"!slow 0.005 {text}"))
            for reader in readers:
                await reader.has_text()
            kill(model)
            for reader in readers:
                await reader.done.wait()
            assert model.stats.restarts == 1
            assert (model.stats.running, model.stats.waiting) == (0, 0)
    assert [reader.text for reader in readers] == wanted
    assert [reader.finished.usage.completion_tokens for reader in readers] == [40, 40]


async def test_a_worker_killed_in_a_prefill_costs_its_request_nothing_but_time(tmp_path: Path) -> None:
    reader, gate = Reader(), tmp_path / "gate"
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path) as model, anyio.create_task_group() as tasks:
            tasks.start_soon(reader.read, model, ask(f"!hold {gate} done"))
            await reader.is_prefilling()
            kill(model)
            gate.touch()
            await reader.done.wait()
    assert reader.text == "done"
    assert reader.finished.reason == "stop"


async def test_a_request_that_waits_in_the_queue_outlives_the_worker(tmp_path: Path) -> None:
    held, waiting, gate = [Reader(), Reader()], Reader(), tmp_path / "gate"
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path) as model, anyio.create_task_group() as tasks:
            for number, reader in enumerate(held):
                tasks.start_soon(reader.read, model, ask(f"!hold {gate} held {number}"))
                await reader.until(lambda reader=reader: bool(reader.events))
            tasks.start_soon(waiting.read, model, ask("patient"))
            await waiting.until(lambda: bool(waiting.events))
            kill(model)
            gate.touch()
            await waiting.done.wait()
    assert waiting.text == "patient"
    assert [reader.text for reader in held] == ["held 0", "held 1"]


async def test_a_worker_killed_while_idle_is_replaced_when_it_is_needed(tmp_path: Path) -> None:
    first, second = Reader(), Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path) as model:
            await first.read(model, ask("before"))
            kill(model)
            await second.read(model, ask("after"))
            assert model.stats.restarts == 1
    assert (first.text, second.text) == ("before", "after")


async def test_a_worker_killed_while_it_loads_is_one_clear_error(tmp_path: Path) -> None:
    caught: list[GemmaError] = []
    known = {worker.pid for worker in workers()}

    async def load() -> None:
        try:
            async with opened(tmp_path):
                pytest.fail("it loaded before it could be killed")
        except GemmaError as error:
            caught.append(error)

    with anyio.fail_after(WAIT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            (await next_worker(known)).kill()
    assert [type(error) for error in caught] == [LoadFailedError]
    assert "its process ended while loading" in str(caught[0])


async def test_a_replacement_killed_while_it_loads_fails_the_request_and_the_next_one_is_served(tmp_path: Path) -> None:
    failed, served = Reader(), Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path) as model, anyio.create_task_group() as tasks:
            known = {worker.pid for worker in workers()}
            kill(model)
            tasks.start_soon(failed.read, model, ask("unlucky"))
            (await next_worker(known)).kill()
            await failed.done.wait()
            await served.read(model, ask("lucky"))
    assert isinstance(failed.error, LoadFailedError)
    assert served.text == "lucky"


async def test_a_worker_that_stops_reading_is_ended_with_its_model(tmp_path: Path) -> None:
    """A worker hangs in native code: leaving the model must not hang with it."""
    if sys.platform == "win32":
        pytest.skip("no SIGSTOP")
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path) as model:
            assert model.worker_pid is not None
            worker = psutil.Process(model.worker_pid)
            worker.suspend()
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


async def test_no_worker_is_left_behind(tmp_path: Path) -> None:
    known = {worker.pid for worker in workers()}
    reader = Reader()
    async with opened(tmp_path) as model:
        await reader.read(model, ask("!die always"))
        assert isinstance(reader.error, WorkerDiedError)
    assert {worker.pid for worker in workers()} == known


async def test_a_worker_whose_engine_is_gone_ends(tmp_path: Path) -> None:
    """The pipe's end is all that a worker needs to know."""
    process = await anyio.open_process([sys.executable, "-m", "gemma_mcp.engine.worker"], env={**os.environ})
    assert process.stdin is not None
    with anyio.fail_after(WAIT_SECONDS):
        await process.stdin.aclose()
        assert await process.wait() == 0
    await process.aclose()
