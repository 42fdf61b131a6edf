"""How engines start and end."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import psutil
import pytest
from talking import chat, say, status_of, text_of, until

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import (
    CapacityError,
    RemoteError,
)
from gemma_mcp.state import read_state, state_path
from gemma_mcp.testing.engines import EngineHome


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


@pytest.mark.parametrize("content", [None, b"garbage"])
async def test_an_engine_whose_state_file_is_lost_is_found_again(home: EngineHome, content: bytes | None) -> None:
    async with home.pool() as pool:
        await say(pool, "hello")
        engine = home.state()
        if content is None:
            state_path(home.places).unlink()
        else:
            state_path(home.places).write_bytes(content)
        await until(lambda: read_state(home.places) == engine)
        assert await say(pool, "again") == "again"
        assert await pool.stop() is True


async def test_stop_ends_a_running_request_with_one_clear_reason(home: EngineHome, tmp_path: Path) -> None:
    async def stopped(pool: EnginePool) -> None:
        async with pool.chat(chat(f"!hold {tmp_path / 'never'} x")) as stream:
            async for chunk in stream:
                if chunk.prompt_progress is not None:
                    assert await pool.stop() is True

    async with home.pool() as pool:
        with pytest.raises(CapacityError, match="stopped"):
            await stopped(pool)


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


@pytest.mark.skipif(sys.platform == "win32", reason="suspended processes are POSIX")
async def test_an_engine_that_hangs_can_be_stopped(home: EngineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    async with home.pool() as pool:
        await say(pool, "hello")
        hung = home.state().pid
        psutil.Process(hung).suspend()
        with monkeypatch.context() as patch:
            patch.setattr("gemma_mcp.client.connect.HANDSHAKE_SECONDS", 0.5)
            for question in (pool.running, pool.models):
                with pytest.raises(RemoteError, match=r"is running, but did not answer within 0\.5 s") as caught:
                    await question()
                assert "engine stop" in caught.value.hint
            assert await pool.stop() is True
        assert not psutil.pid_exists(hung)
        assert await say(pool, "hello again") == "hello again"


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
