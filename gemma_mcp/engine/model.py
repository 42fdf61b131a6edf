"""A model that is loaded: its worker, its scheduler, and the supervisor that replaces a worker which died."""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.background import background
from gemma_mcp.engine.host import WorkerHost, start_worker
from gemma_mcp.engine.scheduler import DECODE_STRETCH, Scheduler
from gemma_mcp.engine.stats import SchedulerStats
from gemma_mcp.errors import GemmaError, WorkerDiedError
from gemma_mcp.types import Event, GenerationRequest, ModelInfo

__all__ = ["LoadedModel", "open_model"]

StartWorker = Callable[[], AbstractAsyncContextManager[WorkerHost]]


class LoadedModel:
    """Made by `open_model`."""

    def __init__(self, spec: ModelSpec, worker: WorkerHost, scheduler: Scheduler) -> None:
        self.spec = spec
        self.info: ModelInfo = worker.info
        self.worker_pid: int | None = worker.pid
        self._scheduler = scheduler

    def stream(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """The request's events; leaving the block ends it. See Scheduler.stream for what it raises."""
        return self._scheduler.stream(request)

    async def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each of the texts has."""
        return await self._scheduler.count(texts)

    @property
    def stats(self) -> SchedulerStats:
        """Counters of this model."""
        return self._scheduler.stats

    async def serve(self, worker: WorkerHost, start: StartWorker) -> None:
        """Serve with this worker, and with another one whenever it has died and there is work."""
        await self._serve_with(worker)
        while True:
            await self._scheduler.wanted()
            try:
                async with start() as replacement:
                    await self._serve_with(replacement)
            except GemmaError as error:
                self._scheduler.refuse(error)

    async def _serve_with(self, worker: WorkerHost) -> None:
        self.worker_pid = worker.pid
        try:
            await self._scheduler.run(worker)
        finally:
            self.worker_pid = None

    def close(self) -> None:
        """Tell whoever still waits that it is over."""
        self._scheduler.refuse(WorkerDiedError(f"The model {self.spec.name!r} was unloaded.", "Call again to load it."))


@asynccontextmanager
async def open_model(
    backend: str,
    spec: ModelSpec,
    options: LoadOptions,
    *,
    queue_limit: int,
    prefill_chunk: int,
    checkpoint_bytes: int = 0,
    decode_stretch: float = DECODE_STRETCH,
    speculate: bool = True,
    log: Path,
    load_timeout: float = math.inf,
    step_timeout: float = math.inf,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> AsyncGenerator[LoadedModel]:
    """Load a model in a worker of its own; leaving unloads it. Raises what `start_worker` raises."""
    start = partial(start_worker, backend, spec, options, log=log, load_timeout=load_timeout, step_timeout=step_timeout)
    async with start(on_progress=on_progress) as worker:
        scheduler = Scheduler(
            queue_limit=queue_limit,
            prefill_chunk=prefill_chunk,
            checkpoint_bytes=checkpoint_bytes,
            decode_stretch=decode_stretch,
            speculate=speculate,
        )
        model = LoadedModel(spec, worker, scheduler)
        async with background(partial(model.serve, worker, start)):
            try:
                yield model
            finally:
                model.close()
