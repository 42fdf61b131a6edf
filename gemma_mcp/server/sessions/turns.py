"""Turns of sessions, one after the other: within this process, and among all servers that share the store.

Who has a turn holds a lock (see `file_turns`). Should a file system know no locks, `SessionStore.append` still lets
only one of two turns at once become the session's next.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio.to_thread

from gemma_mcp.errors import DeadlineError, SessionStoreError
from gemma_mcp.server.file_turns import FileTurns
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.server.sessions.store import Session, SessionStore
from gemma_mcp.server.sessions.transcript import transcript
from gemma_mcp.wire import ChatMessage

__all__ = ["Sessions", "Turn"]

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
        self._turns = FileTurns()

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
        late = DeadlineError(
            f"An earlier turn of session {name!r} was not done within the {box.seconds:g} s of this call.",
            "Call again in a moment.",
        )
        async with self._turns.turn(self.store.turn_lock(name), box, late):
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
