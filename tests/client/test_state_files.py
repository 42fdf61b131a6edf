"""The files that lead to the engine: of another user, open to others, something else in their place, a full disk."""

import errno
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from talking import say

from gemma_mcp.engine.service import state_of
from gemma_mcp.errors import ConfigError, GemmaError, RemoteError
from gemma_mcp.state import engine_lock_path, private_folder, read_state, start_lock_path, state_path, write_state
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.testing.errors import assert_plain

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux")


async def refusal(home: EngineHome) -> GemmaError:
    """What a call says that finds no usable engine."""
    async with home.pool() as pool:
        with pytest.raises(GemmaError) as caught:
            await say(pool, "a private prompt")
    assert_plain(caught.value)
    return caught.value


@contextmanager
def another_user(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """What this user owns belongs to somebody else."""
    user = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr("gemma_mcp.state.os.geteuid", lambda: user + 1)
        yield


@posix
def test_a_state_file_of_another_user_is_not_believed(home: EngineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of("token", 1, "fingerprint")
    write_state(home.places, state)
    with another_user(monkeypatch):
        assert read_state(home.places) is None
    assert read_state(home.places) == state


@posix
async def test_a_state_folder_of_another_user_is_refused(home: EngineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    private_folder(home.places.state)
    with another_user(monkeypatch):
        error = await refusal(home)
    assert isinstance(error, ConfigError)
    assert "belongs to another user" in str(error)
    assert not home.processes()


@posix
@pytest.mark.parametrize("mode", [0o644, 0o606])
async def test_a_state_file_that_is_open_to_others_is_not_believed_and_the_way_out_is_told(
    home: EngineHome, mode: int
) -> None:
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"
        first = home.state().pid
        state_path(home.places).chmod(mode)
        with pytest.raises(RemoteError, match="others may read or write"):
            await pool.running()
        error = await refusal(home)
        assert isinstance(error, RemoteError)
        assert "others may read or write" in error.message
        assert "engine stop" in error.hint
        assert await pool.stop()
        assert await say(pool, "hello again") == "hello again"
        assert home.state().pid != first


@posix
def test_a_folder_that_others_may_write_is_closed_to_them(home: EngineHome) -> None:
    folder = private_folder(home.places.state)
    folder.chmod(0o777)
    assert private_folder(folder).stat().st_mode & 0o777 == 0o700


@posix
def test_a_fifo_in_the_state_file_s_place_blocks_nobody(home: EngineHome) -> None:
    private_folder(home.places.state)
    os.mkfifo(state_path(home.places), 0o600)
    assert read_state(home.places) is None


async def test_a_folder_in_the_state_file_s_place_is_one_clear_error(home: EngineHome) -> None:
    state_path(home.places).mkdir(parents=True)
    error = await refusal(home)
    assert str(state_path(home.places)) in error.message
    assert not home.processes()
    state_path(home.places).rmdir()
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"


@pytest.mark.parametrize("place", ["run", "logs"])
async def test_a_file_in_a_folder_s_place_is_one_clear_error(home: EngineHome, place: str) -> None:
    home.folder.mkdir(parents=True)
    (home.folder / place).write_text("in the way", encoding="utf-8")
    error = await refusal(home)
    assert isinstance(error, ConfigError)
    assert str(home.folder / place) in error.message
    assert not home.processes()


@pytest.mark.parametrize("path", [start_lock_path, engine_lock_path])
async def test_a_lock_that_cannot_be_opened_is_one_clear_error(home: EngineHome, path: Callable[..., Path]) -> None:
    """As when the program once ran as root in the same home."""
    path(home.places).mkdir(parents=True)
    error = await refusal(home)
    assert str(path(home.places)) in error.message
    assert not home.processes()


@linux
async def test_an_engine_whose_logs_cannot_be_written_works_all_the_same(home: EngineHome) -> None:
    logs = private_folder(home.places.logs)
    for name in ("engine.out", "engine.log", "worker-echo.log"):
        (logs / name).symlink_to("/dev/full")
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"
        with pytest.raises(GemmaError):  # the worker writes this failure to its log
            await say(pool, "!fail x")
        assert await say(pool, "hello again") == "hello again"


@pytest.mark.parametrize("name", ["engine.out", "engine.log", "worker-echo.log"])
async def test_a_folder_in_a_log_s_place_keeps_nobody_from_working(home: EngineHome, name: str) -> None:
    (private_folder(home.places.logs) / name).mkdir()
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"


@posix
async def test_a_full_disk_at_the_start_is_one_clear_error(home: EngineHome) -> None:
    """A limit of no bytes stands for the full disk: it holds for the engine too, which this process starts."""
    import resource

    private_folder(home.places.state)
    private_folder(home.places.logs)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        error = await refusal(home)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, RemoteError)
    assert os.strerror(errno.EFBIG).lower() in error.message
    async with home.pool() as pool:
        assert await say(pool, "hello") == "hello"


def test_a_state_file_that_cannot_be_written_leaves_the_old_one(
    home: EngineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of("token", 1, "fingerprint")
    write_state(home.places, state)

    def full(descriptor: int) -> os.stat_result:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("gemma_mcp.state.os.fstat", full)
        with pytest.raises(ConfigError, match="no space left") as caught:
            write_state(home.places, state)
    assert_plain(caught.value)
    assert read_state(home.places) == state
    assert [path.name for path in home.places.state.iterdir() if path.name.startswith(".")] == []
