"""The engine behind its HTTP application: the models, the figures, and what is known of this process."""

import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import gemma_mcp
from gemma_mcp.engine.activity import Activity
from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.logs import worker_log_path
from gemma_mcp.engine.metrics import Metrics
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.engine.registry import Registry
from gemma_mcp.engine.residency import Residency, Resident
from gemma_mcp.engine.room import MemoryRoom
from gemma_mcp.engine.selector import Choice, choose
from gemma_mcp.engine.specs import Specs
from gemma_mcp.errors import LoadFailedError
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.state import EngineState, EngineStatus, LoadedStatus
from gemma_mcp.wire import WIRE_VERSION

__all__ = ["Service", "open_service", "state_of"]

logger = logging.getLogger(__name__)


def state_of(token: str, port: int, fingerprint: str) -> EngineState:
    """What this process says of itself."""
    return EngineState(
        pid=os.getpid(),
        port=port,
        token=token,
        wire_version=WIRE_VERSION,
        version=gemma_mcp.__version__,
        fingerprint=fingerprint,
        started=time.time(),
    )


@dataclass(frozen=True)
class Service:
    """Everything that the HTTP application needs."""

    settings: Settings
    state: EngineState
    specs: Specs
    residency: Residency
    metrics: Metrics
    room: MemoryRoom
    activity: Activity = field(default_factory=Activity)

    def status(self) -> EngineStatus:
        """This process and its models."""
        state = self.state
        loaded = [_loaded(resident, self.room) for resident in self.residency.residents()]
        loading = [LoadedStatus(model=name, loading=done) for name, done in self.residency.loading().items()]
        return EngineStatus(
            pid=state.pid,
            port=state.port,
            version=state.version,
            wire_version=state.wire_version,
            fingerprint=state.fingerprint,
            started=state.started,
            models=(*loaded, *loading),
        )


def _loaded(resident: Resident, room: MemoryRoom) -> LoadedStatus:
    info, stats = resident.model.info, resident.model.stats
    return LoadedStatus(
        model=resident.spec.name,
        runtime=info.runtime,
        device=info.device,
        running=stats.running,
        waiting=stats.waiting,
        size_bytes=info.size_bytes,
        context_length=info.context_length,
        images=info.images,
        fim=info.fim is not None,
        fit=str(room.fit(resident.spec) or ""),
    )


@asynccontextmanager
async def open_service(settings: Settings, places: Places, state: EngineState) -> AsyncGenerator[Service]:
    """The service of an engine; leaving unloads its models."""
    registry = Registry.installed()
    room = MemoryRoom(settings, registry)
    residency = Residency(
        _Opener(settings, places, registry, room).open,
        keep_alive=settings.engine.keep_alive,
        max_models=settings.engine.max_models,
        room=room,
        on_unload=lambda resident: metrics.unloaded(resident),
    )
    metrics = Metrics(residency.residents)
    async with residency:
        yield Service(settings, state, Specs(settings, places), residency, metrics, room)


class _Opener:
    """Loads a model by the first way that works."""

    def __init__(self, settings: Settings, places: Places, registry: Registry, room: MemoryRoom) -> None:
        self._settings = settings
        self._places = places
        self._registry = registry
        self._room = room

    @asynccontextmanager
    async def open(self, spec: ModelSpec, on_progress: Callable[[float], None]) -> AsyncGenerator[LoadedModel]:
        """See Opener."""
        async with AsyncExitStack() as stack:
            yield await self._first(stack, spec, on_progress)

    async def _first(self, stack: AsyncExitStack, spec: ModelSpec, on_progress: Callable[[float], None]) -> LoadedModel:
        choices = choose(spec, self._settings, self._registry, self._room.fit(spec))
        logger.info("%s: %s", spec.name, choices[0].reason)
        for choice in choices[:-1]:
            try:
                return await self._by(stack, choice, spec, on_progress)
            except LoadFailedError as error:
                logger.warning("%s does not load %s: %s", choice.backend, spec.name, error)
        return await self._by(stack, choices[-1], spec, on_progress)

    async def _by(
        self, stack: AsyncExitStack, choice: Choice, spec: ModelSpec, on_progress: Callable[[float], None]
    ) -> LoadedModel:
        return await stack.enter_async_context(
            open_model(
                choice.backend,
                spec,
                choice.options,
                queue_limit=self._settings.engine.queue_limit,
                prefill_chunk=self._settings.llamacpp.prefill_chunk,
                checkpoint_bytes=self._settings.llamacpp.checkpoint_bytes,
                decode_stretch=self._settings.llamacpp.decode_stretch,
                speculate=self._settings.llamacpp.speculate,
                log=worker_log_path(self._places, spec.name),
                load_timeout=self._settings.engine.load_timeout,
                step_timeout=self._settings.engine.step_timeout,
                on_progress=on_progress,
            )
        )
