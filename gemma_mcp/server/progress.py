"""Progress notifications: a few per second, always rising, led by the rate and ending in the newest text."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import anyio

__all__ = ["LONGEST_MESSAGE", "Lead", "Progress", "Speaker", "reporting"]

LONGEST_MESSAGE = 200
"""Characters; Claude Code shows no more."""

HEARTBEAT = 5.0
"""Seconds after which the last message is repeated, so that no client takes a silent load for a hang."""

SMALLEST_STEP = 0.001
"""Seconds by which `progress` rises at least."""

Send = Callable[[float, str], Awaitable[None]]


class Speaker(Protocol):
    """Whoever takes the newest message of a call."""

    def say(self, message: str) -> None:
        """Replace the message."""
        ...


@dataclass(frozen=True)
class Lead:
    """One of several parts of a call: its messages say which."""

    speaker: Speaker
    name: str

    def say(self, message: str) -> None:
        """Pass the message on, its newest end kept where it gets too long."""
        room = LONGEST_MESSAGE - len(self.name) - 3
        head, sign, text = message.rpartition(" · ")
        text = text if len(message) <= room else "…" + text[1 + len(message) - room :]
        self.speaker.say(f"{self.name} · {head}{sign}{text}")


class Progress:
    """What a call is doing, said again and again through `send(seconds so far, message)` until it ends."""

    def __init__(self, send: Send, interval: float) -> None:
        self._send = send
        self._interval = interval
        self._message = ""
        self._news = anyio.Event()
        self._started = monotonic()
        self._last = 0.0

    def say(self, message: str) -> None:
        """Replace the message; it is sent when its turn comes, unless a newer one replaces it first."""
        if message != self._message:
            self._message = message
            self._news.set()

    async def run(self) -> None:
        """Send until cancelled, at most once per interval."""
        while True:
            with anyio.move_on_after(HEARTBEAT):
                await self._news.wait()
            self._news = anyio.Event()
            if self._message:
                self._last = max(monotonic() - self._started, self._last + SMALLEST_STEP)
                await self._send(round(self._last, 3), self._message[:LONGEST_MESSAGE])
            await anyio.sleep(self._interval)


@asynccontextmanager
async def reporting(send: Send, interval: float) -> AsyncGenerator[Progress]:
    """Progress for as long as the context is entered; nothing is sent after it was left."""
    progress = Progress(send, interval)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(progress.run)
            yield progress
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the body's own error, which the task group wrapped
            raise group.exceptions[0] from None
        raise
