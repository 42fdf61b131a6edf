"""Several replies to one prompt: as many requests of the scheduler, which computes what they share once."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import anyio
from msgspec.structs import replace

from gemma_mcp.engine.background import background
from gemma_mcp.engine.mailbox import Mailbox
from gemma_mcp.errors import DeadlineError, GemmaError
from gemma_mcp.types import Event, Finished, GenerationRequest, Timings, Usage, choice_seed

__all__ = ["follow", "requests_of", "total_of"]

Tell = Callable[[Event, int], Awaitable[None]]
Box = Mailbox[tuple[int, Event | DeadlineError]]


def requests_of(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """One request for each choice; the first is the request itself."""
    seed = request.sampling.seed
    seeds = [None if seed is None else choice_seed(seed, index) for index in range(count)]
    return [replace(request, sampling=replace(request.sampling, seed=one)) for one in seeds]


async def follow(streams: Sequence[AsyncIterator[Event]], tell: Tell) -> None:
    """Tell the events of all streams as they come, each with the index of its choice.

    The first error ends all. A choice that had no text yet when time was up ends without any, unless that is so of all
    of them. Raises what the streams raise.
    """
    if len(streams) == 1:
        async for event in streams[0]:
            await tell(event, 0)
        return
    box: Box = Mailbox()
    async with background(partial(_pump_all, streams, box)):
        await _tell_all(box, len(streams), tell)


async def _tell_all(box: Box, count: int, tell: Tell) -> None:
    started = time.monotonic()
    late: dict[int, DeadlineError] = {}
    prompt_tokens = 0
    async for index, event in box:
        if isinstance(event, DeadlineError):
            late[index] = event
            continue
        if isinstance(event, Finished):
            prompt_tokens = event.usage.prompt_tokens
        await tell(event, index)
    if len(late) == count:
        raise next(iter(late.values()))
    for index in late:
        await tell(_ended_late(prompt_tokens, time.monotonic() - started), index)


def _ended_late(prompt_tokens: int, seconds: float) -> Finished:
    """Nothing was computed for it."""
    return Finished("deadline", Usage(prompt_tokens, 0, prompt_tokens), Timings(seconds, 0.0, 0.0, seconds, seconds))


async def _pump_all(streams: Sequence[AsyncIterator[Event]], box: Box) -> None:
    async with anyio.create_task_group() as tasks:
        for index, stream in enumerate(streams):
            tasks.start_soon(_pump, index, stream, box)
    box.close()


async def _pump(index: int, stream: AsyncIterator[Event], box: Box) -> None:
    try:
        async for event in stream:
            box.put((index, event))
    except DeadlineError as error:
        box.put((index, error))
    except GemmaError as error:
        box.close(error)


def total_of(choices: Sequence[Finished]) -> Finished:
    """All choices as one reply: the prompt counted once, and what one of them had to compute of it computed once."""
    first = choices[0]
    if len(choices) == 1:
        return first
    usage = Usage(
        first.usage.prompt_tokens,
        sum(one.usage.completion_tokens for one in choices),
        min(one.usage.cached_tokens for one in choices),
    )
    times = [one.timings for one in choices]
    timings = Timings(
        queue_seconds=min(one.queue_seconds for one in times),
        prefill_seconds=first.timings.prefill_seconds,
        decode_seconds=max(one.decode_seconds for one in times),
        ttft_seconds=min(one.ttft_seconds for one in times),
        total_seconds=max(one.total_seconds for one in times),
    )
    return Finished(first.reason, usage, timings, first.tokens)
