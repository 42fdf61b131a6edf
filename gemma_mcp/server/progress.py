"""Progress notifications: a few per second, always rising, led by the rate and ending in the newest text."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import anyio

from gemma_mcp.server.pace import Pace

__all__ = ["LONGEST_MESSAGE", "Chorus", "Lead", "Progress", "Speaker", "reporting"]

LONGEST_MESSAGE = 200
"""Characters; Claude Code shows no more."""

HEARTBEAT = 5.0
"""Seconds after which the last message is repeated, so that no client takes a silent load for a hang."""

SMALLEST_STEP = 0.001
"""Seconds by which `progress` rises at least."""

Send = Callable[[float, str], Awaitable[None]]


class Speaker(Protocol):
    """Whoever takes the newest message of a call."""

    def say(self, message: str, tokens: int = 0) -> None:
        """Replace the message. `tokens`: how many there are of the reply by now."""
        ...


@dataclass(frozen=True)
class Lead:
    """One of several parts of a call: its messages say which."""

    speaker: Speaker
    name: str

    def say(self, message: str, tokens: int = 0) -> None:
        """Pass the message on, its newest end kept where it gets too long."""
        self.speaker.say(_led(self.name, message), tokens)


class Chorus:
    """Several replies to one prompt at once: the message counts the tokens of all, and those that have ended."""

    def __init__(self, speaker: Speaker, count: int) -> None:
        self._speaker = speaker
        self._tokens = [0] * count
        self._ended = 0
        self._pace: Pace | None = None
        self._newest = ""

    def voice(self, index: int) -> "Voice":
        """What one of them speaks through."""
        return Voice(self, index)

    def take(self, index: int, message: str, tokens: int) -> None:
        """One of them has something new to say."""
        self._tokens[index] = tokens
        self._newest = message
        self._say()

    def end(self) -> None:
        """One of them has ended."""
        self._ended += 1
        self._say()

    def _say(self) -> None:
        total = sum(self._tokens)
        ended = f"{self._ended} of {len(self._tokens)} samples"
        if not total:
            self._speaker.say(_led(ended, self._newest))
            return
        self._pace = self._pace or Pace(total)
        rate = self._pace.rate(total)
        head = (f"{rate:.0f} tok/s · " if rate else "") + f"{total:,} token{'' if total == 1 else 's'} · {ended}"
        self._speaker.say(_led(head, self._newest.rpartition(" · ")[2]), total)


@dataclass(frozen=True)
class Voice:
    """One reply of a chorus."""

    chorus: Chorus
    index: int

    def say(self, message: str, tokens: int = 0) -> None:
        """See Speaker."""
        self.chorus.take(self.index, message, tokens)


def _led(head: str, message: str) -> str:
    room = LONGEST_MESSAGE - len(head) - 3
    start, sign, text = message.rpartition(" · ")
    text = text if len(message) <= room else "…" + text[1 + len(message) - room :]
    return f"{head} · {start}{sign}{text}"


class Progress:
    """What a call is doing, said again and again through `send(seconds so far, message)` until it ends."""

    def __init__(self, send: Send, interval: float) -> None:
        self._send = send
        self._interval = interval
        self._message = ""
        self._news = anyio.Event()
        self._started = monotonic()
        self._last = 0.0

    def say(self, message: str, tokens: int = 0) -> None:
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
