"""Stands between a mass of questions and the engines: so many at once that these never idle, and not more."""

from collections.abc import Sequence

import anyio

from gemma_mcp.errors import DeadlineError, QueueFullError, RemoteError
from gemma_mcp.server.caller import Caller, Options
from gemma_mcp.server.progress import Speaker
from gemma_mcp.server.replies import Reply
from gemma_mcp.wire import ChatMessage, TokenCounts

__all__ = ["BulkCaller"]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a full queue is asked again; each pause is twice the last one. The place is kept meanwhile, so that
fewer ask a queue that is full.
"""

COUNTED_BYTES = 2_000_000
"""Of texts that one request for counts holds, unless a single one is longer; engines limit it."""


class BulkCaller:
    """An `Asker`. All calls of one server share its places."""

    def __init__(self, caller: Caller, at_once: int) -> None:
        self._caller = caller
        self._places = anyio.CapacityLimiter(at_once)
        self.at_once = at_once

    async def ask(self, progress: Speaker, messages: Sequence[ChatMessage], options: Options) -> Reply:
        """One reply. Raises GemmaError, but no QueueFullError: then it waits.

        A reply that breaks off when its engine ends is asked for once more: nobody has seen anything of it.
        """
        with anyio.move_on_after(options.box.remaining) as scope:
            await self._places.acquire_on_behalf_of(scope)
        if scope.cancelled_caught:
            raise _late(options)
        try:
            try:
                return await self._ask_patiently(progress, messages, options)
            except RemoteError:
                return await self._ask_patiently(progress, messages, options)
        finally:
            self._places.release_on_behalf_of(scope)

    async def count_tokens(self, texts: Sequence[str], options: Options) -> TokenCounts:
        """How many tokens texts have, in as many requests as it takes. Raises GemmaError."""
        counts: list[int] = []
        counted: TokenCounts | None = None
        for some in _portions(texts):
            counted = await self._caller.count_tokens(some, options)
            counts += counted.counts
        if counted is None:
            return await self._caller.count_tokens(texts, options)
        return counted.model_copy(update={"counts": tuple(counts)})

    def max_tokens(self, options: Options) -> int:
        """The most tokens of a reply."""
        return self._caller.max_tokens(options)

    async def _ask_patiently(self, progress: Speaker, messages: Sequence[ChatMessage], options: Options) -> Reply:
        pause = FIRST_PAUSE
        while options.box.elapsed < options.box.seconds:
            try:
                return await self._caller.ask(progress, messages, options)
            except QueueFullError:
                progress.say("waiting for the engine's queue")
            await anyio.sleep(min(pause, options.box.remaining))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise _late(options)


def _late(options: Options) -> DeadlineError:
    return DeadlineError(
        f"The {options.box.seconds:g} s of this call were over.", "Call again with a higher max_seconds."
    )


def _portions(texts: Sequence[str]) -> list[list[str]]:
    portions: list[list[str]] = []
    size = COUNTED_BYTES
    for text in texts:
        bytes_ = len(text.encode("utf-8", "replace"))
        if size + bytes_ > COUNTED_BYTES:
            portions.append([])
            size = 0
        portions[-1].append(text)
        size += bytes_
    return portions
