"""The scheduler on the echo executor in this process: what several files of tests here need."""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from PIL import Image

from gemma_mcp.engine.backend import LoadOptions, Piece, SlotOptions, Step, StepResult
from gemma_mcp.engine.background import background
from gemma_mcp.engine.model import LoadedModel
from gemma_mcp.engine.scheduler import Scheduler
from gemma_mcp.testing.echo import EchoExecutor
from gemma_mcp.types import Control, Delta, Event, Finished, GenerationRequest, Media, ModelInfo, Segment, Text


class InProcess:
    """The echo executor as the engine sees a worker; it records the steps."""

    def __init__(self, executor: EchoExecutor) -> None:
        self.executor = executor
        self.steps: list[Step] = []
        self.results: list[StepResult] = []
        self._gone = anyio.Event()
        self.alive = True

    @property
    def info(self) -> ModelInfo:
        return self.executor.info

    async def encode(self, segments: Sequence[Segment]) -> tuple[Piece, ...]:
        return tuple(self.executor.encode(segments))

    async def open(self, slot: int, options: SlotOptions) -> None:
        self.executor.open(slot, options)

    async def step(self, step: Step) -> StepResult:
        self.steps.append(step)
        result = await anyio.to_thread.run_sync(self.executor.step, step)
        self.results.append(result)
        return result

    def interrupt(self) -> None:
        self.executor.interrupt()

    def release(self, media: Sequence[int]) -> None:
        self.executor.release(media)

    async def died(self) -> None:
        await self._gone.wait()


def user(text: str, *before: Segment) -> tuple[Segment, ...]:
    return (
        Control("<bos><start_of_turn>user\n"),
        *before,
        Text(text),
        Control("<end_of_turn>\n<start_of_turn>model\n"),
    )


def ask(text: str, **options: object) -> GenerationRequest:
    return GenerationRequest(segments=user(text), **options)  # pyright: ignore[reportArgumentType]


def picture(width: int, height: int = 8) -> Media:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return Media(buffer.getvalue())


@asynccontextmanager
async def scheduled(
    *,
    queue_limit: int = 8,
    prefill_chunk: int = 256,
    window: int = 0,
    checkpoint_bytes: int = 0,
    speculate: bool = True,
    **options: int,
) -> AsyncGenerator[tuple[Scheduler, InProcess]]:
    executor = InProcess(EchoExecutor(LoadOptions(**options), window=window))  # pyright: ignore[reportArgumentType]
    scheduler = Scheduler(
        queue_limit=queue_limit, prefill_chunk=prefill_chunk, checkpoint_bytes=checkpoint_bytes, speculate=speculate
    )
    async with background(lambda: scheduler.run(executor)):
        yield scheduler, executor


async def reply(door: Scheduler | LoadedModel, request: GenerationRequest) -> tuple[str, list[Event]]:
    events: list[Event] = []
    async with door.stream(request) as stream:
        events += [event async for event in stream]
    return "".join(event.text for event in events if isinstance(event, Delta)), events


def finished(events: list[Event]) -> Finished:
    assert [type(event) for event in events].count(Finished) == 1
    last = events[-1]
    assert isinstance(last, Finished)
    return last


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks work until it holds."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.001)


async def first(stream: AsyncIterator[Event], kind: type[Event]) -> None:
    async for event in stream:
        if isinstance(event, kind):
            return
