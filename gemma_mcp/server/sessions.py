"""Conversations of `chat`, in the memory of this server process."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from gemma_mcp.errors import DeadlineError, UnknownSessionError
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.wire import ChatMessage

__all__ = ["Session", "Sessions"]


@dataclass
class Session:
    """The turns so far; replaced as a whole when a turn succeeded. `model` is the last one that was named."""

    name: str
    system: str | None = None
    model: str | None = None
    messages: tuple[ChatMessage, ...] = ()
    turns: int = 0
    lock: anyio.Lock = field(default_factory=anyio.Lock)


async def _wait_for_turn(session: Session, box: TimeBox) -> None:
    with anyio.move_on_after(box.remaining) as scope:
        await session.lock.acquire()
    if scope.cancelled_caught:
        raise DeadlineError(
            f"An earlier turn of session {session.name!r} was not done within the {box.seconds:g} s of this call.",
            "Call again in a moment.",
        )


class Sessions:
    """At most `limit` sessions; the one that was quiet longest is forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, Session] = {}

    @asynccontextmanager
    async def turn(self, name: str | None, box: TimeBox) -> AsyncGenerator[Session]:
        """One turn at a time of the session `name`, or of a new one, which is kept once it has had a turn.

        Raises UnknownSessionError, also when the session was forgotten while this turn waited for its own, and
        DeadlineError when the time box closes before the turns that came first are done.
        """
        session = self._find(name)
        await _wait_for_turn(session, box)
        try:
            if name is not None:
                self._find(name)
            yield session
            if session.turns:
                self._keep(session)
        finally:
            session.lock.release()

    def _find(self, name: str | None) -> Session:
        if name is None:
            return Session(f"s-{secrets.token_hex(4)}")
        if name not in self._known:
            raise UnknownSessionError(name)
        return self._known[name]

    def _keep(self, session: Session) -> None:
        self._known.pop(session.name, None)
        self._known[session.name] = session
        while len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
