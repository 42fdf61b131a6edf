"""Models in worker processes of their own, and readers of their replies that others can wait for."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.errors import GemmaError
from gemma_mcp.types import Control, Delta, Event, Finished, GenerationRequest, Prefill, Segment, Text

WAIT_SECONDS = 60
"""A test that waits this long hangs."""


@dataclass
class Reader:
    """Reads a reply, and lets others wait for what it has seen."""

    text: str = ""
    events: list[Event] = field(default_factory=list[Event])
    error: GemmaError | None = None
    news: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)

    async def read(self, model: LoadedModel, request: GenerationRequest) -> None:
        try:
            async with model.stream(request) as events:
                await self._follow(events)
        except GemmaError as error:
            self.error = error
        self.done.set()
        self.news.set()

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self.events.append(event)
            if isinstance(event, Delta):
                self.text += event.text
            self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.news = anyio.Event()
            await self.news.wait()

    async def has_text(self) -> None:
        await self.until(lambda: bool(self.text) or self.done.is_set())

    async def is_prefilling(self) -> None:
        await self.until(lambda: any(isinstance(event, Prefill) for event in self.events) or self.done.is_set())

    @property
    def finished(self) -> Finished:
        assert self.error is None, self.error
        assert isinstance(self.events[-1], Finished)
        return self.events[-1]


def ask(*parts: Segment | str, **options: object) -> GenerationRequest:
    texts = [Text(part) if isinstance(part, str) else part for part in parts]
    start, end = Control("<bos><start_of_turn>user\n"), Control("<end_of_turn>\n<start_of_turn>model\n")
    return GenerationRequest(segments=(start, *texts, end), **options)  # pyright: ignore[reportArgumentType]


def opened(
    tmp_path: Path, spec: ModelSpec | None = None, *, step_timeout: float = WAIT_SECONDS, slots: int = 2
) -> AbstractAsyncContextManager[LoadedModel]:
    spec = spec or ModelSpec(name="echo", format="echo", path="")
    return open_model(
        "echo" if spec.format == "echo" else "llamacpp",
        spec,
        LoadOptions(context_length=1024, slots=slots, step_tokens=256, threads=1),
        queue_limit=8,
        prefill_chunk=256,
        log=tmp_path / "worker.log",
        load_timeout=WAIT_SECONDS,
        step_timeout=step_timeout,
    )


def kill(model: LoadedModel) -> None:
    assert model.worker_pid is not None
    psutil.Process(model.worker_pid).kill()
