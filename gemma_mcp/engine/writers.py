"""Who writes a reply: as a stream, in one piece, or only when it has been validated."""

from collections import defaultdict
from collections.abc import Awaitable, Callable

import msgspec

from gemma_mcp.engine.replies import Reply, Shape, Told, dump
from gemma_mcp.errors import DeadlineError, InvalidReplyError
from gemma_mcp.types import Delta, Event, Finished, TokenLogprob
from gemma_mcp.wire import ChatCompletion, ModelCard

__all__ = ["CheckedWriter", "StreamWriter", "WholeWriter", "sse"]

DONE = b"data: [DONE]\n\n"


def sse(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"


class StreamWriter:
    """Writes chunks as they come. What clients of OpenAI do not expect goes out only when `progress` was asked for."""

    def __init__(self, shape: Shape, write: Callable[[bytes], Awaitable[None]], *, progress: bool, usage: bool) -> None:
        self._shape = shape
        self._write = write
        self._progress = progress
        self._usage = usage
        self._card = ModelCard(model="")
        self._opened = False
        self._generated = 0
        self._ended: dict[int, Finished] = {}

    async def loading(self, fraction: float) -> None:
        """See Reply."""
        if self._progress:
            await self._send(self._shape.loading(fraction))

    async def started(self, card: ModelCard) -> None:
        """See Reply."""
        self._card = card
        if self._progress:
            await self._open()

    async def event(self, event: Event, index: int) -> None:
        """See Reply."""
        match event:
            case Delta():
                self._generated += event.tokens
                if event.text or event.logprobs or self._progress:
                    await self._open()
                    await self._send(self._shape.delta(event, index, self._generated if self._progress else None))
            case Finished():
                await self._end(event, index)
            case _:
                if self._progress and index == 0:  # the others wait for its prompt
                    await self._send(self._shape.progress(event))

    async def _end(self, event: Finished, index: int) -> None:
        await self._open()
        await self._send(self._shape.ending(event, index, self._card))
        self._ended[index] = event
        if len(self._ended) < self._shape.choices:
            return
        if self._usage:
            await self._send(self._shape.usage([self._ended[index] for index in sorted(self._ended)]))
        await self._write(DONE)

    async def _open(self) -> None:
        """Late if it may be: an error before the first chunk still gets an HTTP status of its own."""
        if not self._opened:
            self._opened = True
            for index in range(self._shape.choices):
                await self._send(self._shape.opening(self._card, index))

    async def _send(self, chunk: ChatCompletion) -> None:
        await self._write(sse(dump(chunk)))


class _Gathered:
    """Texts and log-probabilities of a choice so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def take(self, event: Delta) -> None:
        self._texts.append(event.text)
        self._logprobs += event.logprobs

    def told(self, ended: Finished) -> Told:
        return Told("".join(self._texts), tuple(self._logprobs), ended)


class WholeWriter:
    """Gathers a reply; `reply` is there at the end."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._card = ModelCard(model="")
        self._gathered = [_Gathered() for _ in range(shape.choices)]
        self._told: dict[int, Told] = {}
        self.reply: ChatCompletion | None = None

    async def loading(self, fraction: float) -> None:
        """See Reply."""

    async def started(self, card: ModelCard) -> None:
        """See Reply."""
        self._card = card

    async def event(self, event: Event, index: int) -> None:
        """See Reply."""
        if isinstance(event, Delta):
            self._gathered[index].take(event)
        elif isinstance(event, Finished):
            self._told[index] = self._gathered[index].told(event)
            if len(self._told) == self._shape.choices:
                self.reply = self._shape.whole([self._told[index] for index in sorted(self._told)], self._card)


class CheckedWriter:
    """Holds text back until the finished reply has been validated; what does not validate is never passed on.

    Meanwhile empty deltas go through, so that a client sees that tokens are coming.
    """

    def __init__(self, inner: Reply, validate: Callable[[str], None]) -> None:
        self._inner = inner
        self._validate = validate
        self._gathered: defaultdict[int, _Gathered] = defaultdict(_Gathered)

    async def loading(self, fraction: float) -> None:
        """See Reply."""
        await self._inner.loading(fraction)

    async def started(self, card: ModelCard) -> None:
        """See Reply."""
        await self._inner.started(card)

    async def event(self, event: Event, index: int) -> None:
        """See Reply. Raises InvalidReplyError or, when time was up, DeadlineError."""
        if isinstance(event, Delta):
            self._gathered[index].take(event)
            event = msgspec.structs.replace(event, text="", logprobs=())
        elif isinstance(event, Finished):
            await self._inner.event(self._checked(self._gathered[index].told(event)), index)
        await self._inner.event(event, index)

    def _checked(self, told: Told) -> Delta:
        tokens = told.ended.usage.completion_tokens
        if told.ended.reason == "length":
            raise InvalidReplyError(
                f"The reply was cut after {tokens} tokens, before its JSON was complete.",
                "Raise max_tokens, or ask for less.",
            )
        if told.ended.reason == "deadline":
            raise DeadlineError(
                f"Time was up after {tokens} tokens, before the reply's JSON was complete.",
                "Allow more time, or ask for less.",
            )
        self._validate(told.text)
        return Delta(told.text, 0, told.logprobs)
