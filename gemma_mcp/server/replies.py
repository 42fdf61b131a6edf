"""A reply while it streams in: the text, the counts, what to say meanwhile, and what is left when time is up."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from time import monotonic

import anyio

from gemma_mcp.errors import DeadlineError, RemoteError
from gemma_mcp.server.progress import LONGEST_MESSAGE, Progress
from gemma_mcp.wire import ChatCompletion, Choice, ModelCard, WireTimings, WireUsage

__all__ = ["ChunkStream", "Reply", "TimeBox", "collect"]

ChunkStream = AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]

GRACE = 2.0
"""Seconds after the deadline in which the engine may hand over what it has, before we leave without it."""


@dataclass(frozen=True)
class TimeBox:
    """Seconds that one call may take, counted from its creation."""

    seconds: float
    started: float = field(default_factory=monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return monotonic() - self.started

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; never quite 0, since the wire takes positive numbers only."""
        return max(0.001, self.seconds - self.elapsed)


@dataclass(frozen=True)
class Reply:
    """A finished reply. `seconds` is the whole call's time; `notes` say what was cut or changed.

    `tokens`: the ids of the text's tokens, empty where the engine did not tell them.
    """

    text: str
    finish_reason: str
    card: ModelCard
    usage: WireUsage | None
    timings: WireTimings | None
    seconds: float
    notes: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()


class Transcript:
    """Takes the chunks of one stream."""

    def __init__(self, model: str) -> None:
        self._card = ModelCard(model=model)
        self._pieces: list[str] = []
        self._tokens = 0
        self._first_text = 0.0
        self._usage: WireUsage | None = None
        self._timings: WireTimings | None = None
        self._ids: tuple[int, ...] = ()
        self.finish_reason: str | None = None
        self.waiting = "waiting for the engine"

    @property
    def text(self) -> str:
        """Everything so far."""
        return "".join(self._pieces)

    @property
    def status(self) -> str:
        """One line for a progress message."""
        if not self._pieces:
            return self.waiting
        seconds = monotonic() - self._first_text
        rate = f"{self._tokens / seconds:.0f} tok/s · " if seconds > 0 and self._tokens > 1 else ""
        head = f"{rate}{self._tokens:,} token{'' if self._tokens == 1 else 's'} · "
        return head + self._newest(LONGEST_MESSAGE - len(head))

    def take(self, chunk: ChatCompletion) -> None:
        """Note what a chunk brings."""
        self._card = chunk.gemma or self._card
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        self._ids = chunk.tokens or self._ids
        self._take_waiting(chunk)
        for choice in chunk.choices:
            self._take_choice(choice)

    def reply(self, box: TimeBox) -> Reply:
        """The whole, once the stream has ended. Raises DeadlineError when time was up before the first text."""
        if self.finish_reason is None:
            raise RemoteError("The engine's reply ended in the middle.", "Try again; `gemma-mcp engine logs` has more.")
        if self.finish_reason == "deadline" and not self._pieces:
            raise _too_late(self.waiting, box.seconds)
        usage, timings = self._usage, self._timings
        return Reply(self.text, self.finish_reason, self._card, usage, timings, box.elapsed, tokens=self._ids)

    def _take_waiting(self, chunk: ChatCompletion) -> None:
        if chunk.loading is not None:
            self.waiting = f"loading {chunk.loading * 100:.0f} %"
        elif chunk.queue_place is not None:
            self.waiting = f"queued, place {chunk.queue_place}"
        elif chunk.prompt_progress is not None:
            read = chunk.prompt_progress
            self.waiting = f"reading {read.processed:,} of {read.total:,} tokens"

    def _take_choice(self, choice: Choice) -> None:
        text = (choice.delta.content if choice.delta else None) or choice.text or ""
        if text:
            self._first_text = self._first_text or monotonic()
            self._pieces.append(text)
            self._tokens += 1
        self.finish_reason = choice.finish_reason or self.finish_reason

    def _newest(self, room: int) -> str:
        """The end of the text on one line; only the pieces that can show are joined."""
        line = " ".join("".join(self._pieces[-room:]).split())
        return line if len(line) <= room else "…" + line[1 - room :]


async def collect(stream: ChunkStream, model: str, box: TimeBox, progress: Progress) -> Reply:
    """Read a stream to its end or until the time box closes. Leaving the stream ends the engine's work on it."""
    transcript = Transcript(model)
    progress.say(transcript.status)
    with anyio.move_on_after(box.remaining + GRACE) as scope:
        async with stream as chunks:
            async for chunk in chunks:
                transcript.take(chunk)
                progress.say(transcript.status)
    if scope.cancelled_caught and transcript.finish_reason is None:
        transcript.finish_reason = "deadline"
    return transcript.reply(box)


def _too_late(waiting: str, seconds: float) -> DeadlineError:
    if waiting.startswith("loading"):
        return DeadlineError(
            f"The model was not loaded yet when the {seconds:g} s of this call were over ({waiting}).",
            "It keeps loading: call again in a moment and it will be ready.",
        )
    return DeadlineError(
        f"There was no text yet when the {seconds:g} s of this call were over ({waiting}).",
        "Call again with a higher max_seconds, a shorter prompt, or when less is going on.",
    )
