"""Workers that hang: alive, and silent. The watchdog ends them, and their requests go on elsewhere."""

import sys
from pathlib import Path

import anyio
import psutil
import pytest
from model_readers import WAIT_SECONDS, Reader, ask, opened

from gemma_mcp.errors import LoadFailedError, WorkerDiedError
from gemma_mcp.testing.errors import assert_plain

STEP_SECONDS = 1.5
"""What these tests allow a step of the echo model."""


async def test_a_step_that_hangs_once_costs_its_requests_nothing_but_time(tmp_path: Path) -> None:
    hanging, neighbour = Reader(), Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path, step_timeout=STEP_SECONDS) as model, anyio.create_task_group() as tasks:
            tasks.start_soon(neighbour.read, model, ask("!slow 0.02 " + "x" * 50))
            await neighbour.has_text()
            tasks.start_soon(hanging.read, model, ask(f"!once {tmp_path / 'hung'} !hang done"))
            await hanging.done.wait()
            await neighbour.done.wait()
            assert model.stats.restarts == 1
    assert (hanging.text, neighbour.text) == ("done", "x" * 50)


async def test_a_request_that_hangs_every_worker_is_refused_and_its_neighbour_is_not(tmp_path: Path) -> None:
    hanging, neighbour, again, after = Reader(), Reader(), Reader(), Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path, step_timeout=STEP_SECONDS) as model, anyio.create_task_group() as tasks:
            tasks.start_soon(neighbour.read, model, ask("!slow 0.02 " + "x" * 50))
            await neighbour.has_text()
            tasks.start_soon(hanging.read, model, ask("!hang me"))
            await hanging.done.wait()
            await neighbour.done.wait()
            await again.read(model, ask("!hang me"))
            await after.read(model, ask("fine"))
            assert model.stats.restarts == 2
    for reader in (hanging, again):
        assert isinstance(reader.error, WorkerDiedError)
        assert_plain(reader.error)
    assert (neighbour.text, after.text) == ("x" * 50, "fine")


async def test_a_step_is_not_taken_for_hung_while_others_are_quick(tmp_path: Path) -> None:
    """The bound is on one step; a long reply is many of them."""
    reader = Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path, step_timeout=STEP_SECONDS) as model:
            await reader.read(model, ask("!slow 0.05 " + "x" * 40))
            assert model.stats.restarts == 0
    assert reader.text == "x" * 40


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
async def test_a_worker_that_hangs_while_a_prompt_is_encoded_is_replaced(tmp_path: Path) -> None:
    reader = Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path, step_timeout=STEP_SECONDS) as model:
            assert model.worker_pid is not None
            psutil.Process(model.worker_pid).suspend()
            await reader.read(model, ask("hello"))
            assert model.stats.restarts == 1
    assert reader.text == "hello"


async def test_a_deadline_ends_a_request_whose_step_hangs(tmp_path: Path) -> None:
    reader, after = Reader(), Reader()
    with anyio.fail_after(WAIT_SECONDS):
        async with opened(tmp_path, step_timeout=2.0) as model:
            await reader.read(model, ask("!hang x", deadline_seconds=0.3))
            await after.read(model, ask("fine"))
    assert reader.error is not None
    assert "Time was up" in str(reader.error)
    assert_plain(reader.error)
    assert after.text == "fine"


async def test_a_load_that_hangs_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    monkeypatch.setattr("gemma_mcp.engine.host._command", lambda: silent)
    monkeypatch.setattr("model_readers.WAIT_SECONDS", 0.3)
    with anyio.fail_after(WAIT_SECONDS):
        with pytest.raises(LoadFailedError, match=r"took more than 0\.3 s") as caught:
            async with opened(tmp_path):
                pytest.fail("it loaded")
    assert_plain(caught.value)
