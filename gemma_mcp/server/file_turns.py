"""Turns at something that a file stands for, one after the other: in this process, and among all servers of a user.

Who has a turn holds a lock of the operating system on a small file, so it is free again the moment its holder ends,
however that was, and no clock is asked.
"""

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
from filelock import BaseFileLock, FileLock, Timeout

from gemma_mcp.errors import DeadlineError
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.state import make_private

__all__ = ["FileTurns", "try_lock"]

POLL_SECONDS = 0.05
"""Between two looks whether another process has finished its turn."""


class FileTurns:
    """Gives the turns of one process."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, lock: Path, box: TimeBox, late: DeadlineError) -> AsyncGenerator[None]:
        """Alone with what `lock` stands for. Raises `late` when the time box closes before earlier turns are done."""
        here = self._locks.setdefault(str(lock), anyio.Lock())
        async with contextlib.AsyncExitStack() as stack:
            with anyio.move_on_after(box.remaining) as scope:
                await stack.enter_async_context(here)
                await stack.enter_async_context(_among_processes(lock))
            if scope.cancelled_caught:
                raise late
            yield


@asynccontextmanager
async def _among_processes(path: Path) -> AsyncGenerator[None]:
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        while True:
            if try_lock(lock):
                break
            await anyio.sleep(POLL_SECONDS)
        yield
    finally:
        lock.release()


def try_lock(lock: BaseFileLock) -> bool:
    """Whether nobody else holds it; true as well where there are no locks to be had."""
    try:
        make_private(Path(lock.lock_file).parent)
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError):
        pass
    return True
