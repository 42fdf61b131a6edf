"""Turns of sessions, one after the other: within this process, and among all servers that share the store.

Who has a turn holds a lock of the operating system on a small file, so it is free again the moment its holder ends,
however that was, and no clock is asked. Should a file system know no such locks, `SessionStore.append` still lets only
one of two turns at once become the session's next.
"""

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from filelock import BaseFileLock, FileLock, Timeout

from gemma_mcp.errors import DeadlineError, SessionStoreError
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.server.sessions.store import Session, SessionStore
from gemma_mcp.server.sessions.transcript import transcript
from gemma_mcp.state import private_folder
from gemma_mcp.wire import ChatMessage

__all__ = ["Sessions", "Turn"]

POLL_SECONDS = 0.05
"""Between two looks whether another process has finished its turn."""

MOST_NAMES = 100
"""What a completion may hold by the protocol."""


@dataclass(frozen=True)
class Turn:
    """A turn that is being taken: `session` is the conversation before it."""

    session: Session
    _store: SessionStore

    async def keep(
        self, message: ChatMessage, answer: ChatMessage, *, system: str | None, model: str | None, answered_by: str
    ) -> None:
        """Make it part of the session. Raises SessionChangedError and SessionStoreError, and then it is not."""
        add = partial(self._store.append, system=system, model=model, answered_by=answered_by)
        await anyio.to_thread.run_sync(add, self.session, (message, answer))


class Sessions:
    """The store for an event loop."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, name: str | None, box: TimeBox, *, fork: bool = False) -> AsyncGenerator[Turn]:
        """A turn of the session `name`, of a new one, or of a new one that begins as a fork of `name`.

        Turns of one session wait for each other; a fork starts from the last that is finished. The session changes only
        when `Turn.keep` is called. Raises UnknownSessionError, SessionStoreError, and DeadlineError when the time box
        closes before earlier turns are done.
        """
        if name is None or fork:
            open_session = partial(self.store.fork, name) if name else self.store.new
            yield Turn(await anyio.to_thread.run_sync(open_session), self.store)
            return
        await anyio.to_thread.run_sync(self.store.check, name)
        async with self._in_turn(name, box):
            yield Turn(await anyio.to_thread.run_sync(self.store.load, name), self.store)

    async def transcript(self, name: str) -> str:
        """The session as Markdown. Raises UnknownSessionError and SessionStoreError."""
        session = await anyio.to_thread.run_sync(self.store.load, name)
        summary = await anyio.to_thread.run_sync(self.store.summary, name)
        return transcript(session, summary)

    async def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, the last used one first, for completion: none when the store is unusable."""
        try:
            found = await anyio.to_thread.run_sync(self.store.summaries, prefix)
        except SessionStoreError:
            return []
        return [one.name for one in found[:MOST_NAMES]]

    @asynccontextmanager
    async def _in_turn(self, name: str, box: TimeBox) -> AsyncGenerator[None]:
        lock = self._locks.setdefault(name, anyio.Lock())
        async with contextlib.AsyncExitStack() as stack:
            with anyio.move_on_after(box.remaining) as scope:
                await stack.enter_async_context(lock)
                await stack.enter_async_context(_among_processes(self.store.turn_lock(name)))
            if scope.cancelled_caught:
                raise DeadlineError(
                    f"An earlier turn of session {name!r} was not done within the {box.seconds:g} s of this call.",
                    "Call again in a moment.",
                )
            yield


@asynccontextmanager
async def _among_processes(path: Path) -> AsyncGenerator[None]:
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        while True:
            if _acquired(lock):
                break
            await anyio.sleep(POLL_SECONDS)
        yield
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    """True as well where there are no locks to be had."""
    try:
        private_folder(Path(lock.lock_file).parent)
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError):
        pass
    return True
