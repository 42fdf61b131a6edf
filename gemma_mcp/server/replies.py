"""A reply while it streams in: the text, the counts, what to say meanwhile, and what is left when time is up."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from statistics import fmean
from time import monotonic
from typing import TypeVar

import anyio

from gemma_mcp.errors import ContextOverflowError, DeadlineError, RemoteError
from gemma_mcp.server.pace import Pace, duration
from gemma_mcp.server.progress import LONGEST_MESSAGE, Speaker
from gemma_mcp.wire import (
    ChatCompletion,
    ChatCompletionRequest,
    Choice,
    CompletionRequest,
    ModelCard,
    WireTimings,
    WireUsage,
)

__all__ = ["ChunkStream", "Reply", "Request", "TimeBox", "Transcript", "collect", "with_room"]

ChunkStream = AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]

T = TypeVar("T")
Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest)

FEWEST_TOKENS = 16
"""Below this a reply that has to fit the rest of a context is not worth starting."""

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

    async def within(self, work: Awaitable[T], late: str) -> T:
        """Wait for some work. Raises DeadlineError when the deadline comes first; `late` says what is missing then."""
        with anyio.move_on_after(self.remaining):
            return await work
        raise DeadlineError(
            f"{late} when the {self.seconds:g} s of this call were over.",
            "Call again in a moment, or with a higher max_seconds.",
        )


@dataclass(frozen=True)
class Reply:
    """A finished reply. `asked` is the name by which its model was asked; `seconds` is the whole call's time; `notes`
    say what was cut or changed; `tokens` are the ids of the text's tokens, none where the engine did not tell them.
    `mean_logprob` is that of its tokens, where log-probabilities were asked for; `extra` is more for `_meta`.
    """

    text: str
    finish_reason: str
    card: ModelCard
    usage: WireUsage | None
    timings: WireTimings | None
    seconds: float
    notes: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    asked: str = ""
    mean_logprob: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict[str, object])


class Transcript:
    """Takes the chunks of one stream."""

    def __init__(self, model: str, box: TimeBox, max_tokens: int | None = None) -> None:
        self._asked = model
        self._box = box
        self._max_tokens = max_tokens
        self._card = ModelCard(model=model)
        self._pieces: list[str] = []
        self._tokens = 0
        self._decode: Pace | None = None
        self._loading: Pace | None = None
        self._prefill: Pace | None = None
        self._usage: WireUsage | None = None
        self._timings: WireTimings | None = None
        self._ids: tuple[int, ...] = ()
        self._logprobs: list[float] = []
        self.finish_reason: str | None = None
        self._rate = self._left = ""
        self.waiting = "waiting for the engine"

    @property
    def text(self) -> str:
        """Everything so far."""
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        """How many there are so far."""
        return self._tokens

    @property
    def status(self) -> str:
        """One line for a progress message."""
        if self._decode is None:
            return self._rate + self.waiting + self._left
        rate = self._decode.rate(self._tokens)
        head = (f"{rate:.0f} tok/s · " if rate else "") + f"{self._tokens:,} token{'' if self._tokens == 1 else 's'} · "
        head += self._most_left(rate)
        return head + self._newest(LONGEST_MESSAGE - len(head))

    def _most_left(self, rate: float) -> str:
        """The longest that it can still take: until max_tokens at this rate, or until the time box closes."""
        if not rate or self._max_tokens is None:
            return ""
        return f"≤ {duration(min((self._max_tokens - self._tokens) / rate, self._box.remaining))} left · "

    def take(self, chunk: ChatCompletion) -> None:
        """Note what a chunk brings."""
        self._card = chunk.gemma or self._card
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        self._ids = chunk.tokens or self._ids
        self._take_waiting(chunk)
        for choice in chunk.choices:
            self._take_choice(choice)
        if chunk.generated:  # a piece of text is not always one token; engines elsewhere do not tell
            self._tokens = chunk.generated
            self._decode = self._decode or Pace(self._tokens)

    def reply(self, box: TimeBox) -> Reply:
        """The whole, once the stream has ended. Raises DeadlineError when time was up before the first text."""
        if self.finish_reason is None:
            raise RemoteError("The engine's reply ended in the middle.", "Try again; `gemma-mcp engine logs` has more.")
        if self.finish_reason == "deadline" and not self._pieces:
            raise _too_late(self.waiting, box.seconds)
        usage, timings = self._usage, self._timings
        return Reply(
            self.text,
            self.finish_reason,
            self._card,
            usage,
            timings,
            box.elapsed,
            tokens=self._ids,
            asked=self._asked,
            mean_logprob=fmean(self._logprobs) if self._logprobs else None,
        )

    def _take_waiting(self, chunk: ChatCompletion) -> None:
        if chunk.loading is not None:
            self._loading = self._loading or Pace(chunk.loading)
            rate = self._loading.rate(chunk.loading)
            self._say(f"loading {chunk.loading * 100:.0f} %", "", rate and (1 - chunk.loading) / rate)
        elif chunk.queue_place is not None:
            self._say(f"queued, place {chunk.queue_place}")
        elif chunk.prompt_progress is not None:
            done, total = chunk.prompt_progress.processed, chunk.prompt_progress.total
            self._prefill = self._prefill or Pace(done)
            rate = self._prefill.rate(done)
            self._say(f"reading {done:,} of {total:,} tokens", f"{rate:.0f} tok/s", rate and (total - done) / rate)

    def _say(self, waiting: str, rate: str = "", left: float = 0.0) -> None:
        """What goes on before the first text; `left` are seconds, 0 when they are not known."""
        self.waiting = waiting
        self._rate = f"{rate} · " if rate and left else ""
        self._left = f" · {duration(left)} left" if left else ""

    def _take_choice(self, choice: Choice) -> None:
        text = (choice.delta.content if choice.delta else None) or choice.text or ""
        if text:
            self._pieces.append(text)
            self._tokens += 1
            self._decode = self._decode or Pace(self._tokens)
        self._logprobs += [one["logprob"] for one in (choice.logprobs or {}).get("content") or ()]
        self.finish_reason = choice.finish_reason or self.finish_reason

    def _newest(self, room: int) -> str:
        """The end of the text on one line; only the pieces that can show are joined."""
        line = " ".join("".join(filter(_shows, "".join(self._pieces[-room:]))).split())
        return line if len(line) <= room else "…" + line[1 - room :]


async def with_room(ask: Callable[[Request], Awaitable[Reply]], request: Request, *, chosen: bool) -> Reply:
    """The reply to a request. With a max_tokens that nobody has `chosen`, a shorter one is better than a refusal."""
    try:
        return await ask(request)
    except ContextOverflowError as error:
        room = error.context_length - error.prompt_tokens
        if chosen or not FEWEST_TOKENS <= room < (request.max_tokens or 0):
            raise
    reply = await ask(request.model_copy(update={"max_tokens": room}))
    return replace(reply, notes=(f"the context has room for {room} tokens of reply",))


def _shows(letter: str) -> bool:
    """Marks that turn the direction of writing round, and others that cannot be seen, stay out of a status line."""
    return letter.isprintable() or letter.isspace()


async def collect(
    stream: ChunkStream, model: str, box: TimeBox, progress: Speaker, max_tokens: int | None = None
) -> Reply:
    """Read a stream to its end or until the time box closes. Leaving the stream ends the engine's work on it."""
    transcript = Transcript(model, box, max_tokens)
    progress.say(transcript.status)
    with anyio.move_on_after(box.remaining + GRACE) as scope:
        async with stream as chunks:
            async for chunk in chunks:
                transcript.take(chunk)
                progress.say(transcript.status, transcript.tokens)
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
