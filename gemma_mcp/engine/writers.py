"""Who writes a reply: as a stream, in one piece, or only when it has been validated."""

from collections.abc import Awaitable, Callable

import msgspec

from gemma_mcp.engine.replies import Reply, Shape, dump
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

    async def loading(self, fraction: float) -> None:
        """See Reply."""
        if self._progress:
            await self._send(self._shape.loading(fraction))

    async def started(self, card: ModelCard) -> None:
        """See Reply."""
        self._card = card
        if self._progress:
            await self._open()

    async def event(self, event: Event) -> None:
        """See Reply."""
        match event:
            case Delta():
                self._generated += event.tokens
                if event.text or event.logprobs or self._progress:
                    await self._open()
                    await self._send(self._shape.delta(event, self._generated if self._progress else None))
            case Finished():
                await self._open()
                await self._send(self._shape.ending(event, self._card))
                if self._usage:
                    await self._send(self._shape.usage(event))
                await self._write(DONE)
            case _:
                if self._progress:
                    await self._send(self._shape.progress(event))

    async def _open(self) -> None:
        """Late if it may be: an error before the first chunk still gets an HTTP status of its own."""
        if not self._opened:
            self._opened = True
            await self._send(self._shape.opening(self._card))

    async def _send(self, chunk: ChatCompletion) -> None:
        await self._write(sse(dump(chunk)))


class WholeWriter:
    """Gathers a reply; `reply` is there at the end."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._card = ModelCard(model="")
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self.reply: ChatCompletion | None = None

    async def loading(self, fraction: float) -> None:
        """See Reply."""

    async def started(self, card: ModelCard) -> None:
        """See Reply."""
        self._card = card

    async def event(self, event: Event) -> None:
        """See Reply."""
        if isinstance(event, Delta):
            self._texts.append(event.text)
            self._logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.reply = self._shape.whole("".join(self._texts), tuple(self._logprobs), event, self._card)


class CheckedWriter:
    """Holds text back until the finished reply has been validated; what does not validate is never passed on.

    Meanwhile empty deltas go through, so that a client sees that tokens are coming.
    """

    def __init__(self, inner: Reply, validate: Callable[[str], None]) -> None:
        self._inner = inner
        self._validate = validate
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    async def loading(self, fraction: float) -> None:
        """See Reply."""
        await self._inner.loading(fraction)

    async def started(self, card: ModelCard) -> None:
        """See Reply."""
        await self._inner.started(card)

    async def event(self, event: Event) -> None:
        """See Reply. Raises InvalidReplyError or, when time was up, DeadlineError."""
        if isinstance(event, Delta):
            self._texts.append(event.text)
            self._logprobs += event.logprobs
            event = msgspec.structs.replace(event, text="", logprobs=())
        elif isinstance(event, Finished):
            await self._inner.event(self._checked(event))
        await self._inner.event(event)

    def _checked(self, event: Finished) -> Delta:
        text = "".join(self._texts)
        if event.reason == "length":
            raise InvalidReplyError(
                f"The reply was cut after {event.usage.completion_tokens} tokens, before its JSON was complete.",
                "Raise max_tokens, or ask for less.",
            )
        if event.reason == "deadline":
            raise DeadlineError(
                f"Time was up after {event.usage.completion_tokens} tokens, before the reply's JSON was complete.",
                "Allow more time, or ask for less.",
            )
        self._validate(text)
        return Delta(text, 0, tuple(self._logprobs))
