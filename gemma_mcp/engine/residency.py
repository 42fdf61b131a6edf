"""Which models are in memory: one load at a time per model, leases, keep-alive, room for the next one."""

import hashlib
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from types import TracebackType

import anyio
import anyio.abc

from gemma_mcp.chat.template import ChatTemplate
from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.model import LoadedModel
from gemma_mcp.engine.room import Boundless, Room, resident_bytes
from gemma_mcp.errors import CapacityError, GemmaError, LoadFailedError, describe, restore
from gemma_mcp.wire import ModelCard

__all__ = ["OnLoading", "Opener", "Residency", "Resident"]

OnLoading = Callable[[float], Awaitable[None]]
Opener = Callable[[ModelSpec, Callable[[float], None]], AbstractAsyncContextManager[LoadedModel]]
"""Loads a model, reporting progress from 0 to 1; leaving unloads it."""

logger = logging.getLogger(__name__)


class Resident:
    """A model that is in memory."""

    def __init__(self, spec: ModelSpec, model: LoadedModel) -> None:
        self.spec = spec
        self.model = model

    @cached_property
    def template(self) -> ChatTemplate:
        """Its chat template. Raises UnsupportedError when that cannot be used."""
        return ChatTemplate.of(self.model.info)

    @cached_property
    def vocabulary(self) -> str:
        """Names the model and its vocabulary, shortly; see wire.ModelCard."""
        both = f"{self.spec.name}\0{self.model.info.vocabulary}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    @property
    def card(self) -> ModelCard:
        """What a reply says of it."""
        info = self.model.info
        return ModelCard(
            model=self.spec.name,
            runtime=info.runtime,
            device=info.device,
            context_length=info.context_length,
            images=info.images,
            fim=info.fim is not None,
            vocabulary=self.vocabulary,
            notice=self.spec.notice,
        )


class _Place:
    """A model's place in memory, from the wish to load it until its worker has gone."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.progress = 0.0
        self.resident: Resident | None = None
        self.error: GemmaError | None = None
        self.leases = 0
        self.used = 0
        self.evicted = False
        self._changed = anyio.Event()

    @property
    def idle(self) -> bool:
        return self.resident is not None and self.leases == 0

    def change(self) -> None:
        """Wake everybody who waits for something about this place."""
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    def report(self, fraction: float) -> None:
        self.progress = min(1.0, max(self.progress, fraction))
        self.change()


class Residency:
    """The models in memory. An asynchronous context manager: leaving it unloads all.

    `keep_alive`: seconds that an idle model stays. `max_models`: how many are in memory at once, 0 for as many as there
    is `room` for; for one more, the idle ones go, that which was not used for the longest time first, and while none is
    idle the newcomer waits. `on_unload` is told when a model goes, with its last figures.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        keep_alive: float,
        max_models: int,
        room: Room | None = None,
        on_unload: Callable[[Resident], None] = lambda resident: None,
    ) -> None:
        self._opener = opener
        self._keep_alive = keep_alive
        self._max_models = max_models
        self._room = room or Boundless()
        self._claiming = anyio.Lock()
        self._on_unload = on_unload
        self._places: dict[ModelSpec, _Place] = {}
        self._occupied: set[_Place] = set()
        self._clock = itertools.count(1)
        self._freed = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> "Residency":
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, error, traceback)

    def residents(self) -> list[Resident]:
        """The models that are loaded."""
        return [place.resident for place in self._places.values() if place.resident is not None]

    def loading(self) -> dict[str, float]:
        """How far the loads under way have come, by name."""
        return {spec.name: place.progress for spec, place in self._places.items() if place.resident is None}

    @asynccontextmanager
    async def lease(self, spec: ModelSpec, on_loading: OnLoading) -> AsyncGenerator[Resident]:
        """The loaded model, which stays in memory for the time of the block. It is loaded first if need be.

        Leaving while it loads does not end the load: the next call finds it ready. Raises what the load raised, to
        everybody who waited for it; the next call tries again.
        """
        place = self._places.get(spec) or self._begin(spec)
        place.leases += 1
        try:
            yield await self._ready(place, on_loading)
        finally:
            place.leases -= 1
            place.used = next(self._clock)
            place.change()
            if place.idle:
                self._wake()

    async def _ready(self, place: _Place, on_loading: OnLoading) -> Resident:
        while place.resident is None:
            if place.error is not None:
                raise restore(describe(place.error)) from place.error
            told = place.progress
            await on_loading(told)
            if place.resident is None and place.error is None and place.progress == told:
                await place.changed()
        return place.resident

    def _begin(self, spec: ModelSpec) -> _Place:
        assert self._tasks is not None
        place = self._places[spec] = _Place(spec)
        self._tasks.start_soon(self._hold, place)
        return place

    async def _hold(self, place: _Place) -> None:
        """The life of a place. Its name is free for a new load as soon as it is decided that this one goes."""
        try:
            await self._make_room(place)
            await self._load_and_stay(place)
        except Exception as error:
            place.error = _as_load_error(place.spec, error)
            logger.warning("%s was not loaded: %s", place.spec.name, place.error, exc_info=error)
        finally:
            if place.resident is None and place.error is None:
                place.error = CapacityError("The engine is ending.", "Call again to start a new one.")
            self._forget(place)
            self._occupied.discard(place)
            self._room.release(place)
            place.change()
            self._wake()

    async def _load_and_stay(self, place: _Place) -> None:
        async with self._opener(place.spec, place.report) as model:
            resident = place.resident = Resident(place.spec, model)
            place.used = next(self._clock)
            self._room.settle(place, lambda: resident_bytes(model.worker_pid))
            place.change()
            self._wake()
            logger.info("%s is loaded on %s", place.spec.name, model.info.device)
            try:
                await self._stay(place)
            finally:
                self._forget(place)
                self._on_unload(resident)
                logger.info("%s is unloaded", place.spec.name)

    async def _stay(self, place: _Place) -> None:
        """Return when nobody holds a lease and keep-alive has passed or the room is needed."""
        while place.leases or not place.evicted:
            if place.leases:
                await place.changed()
                continue
            with anyio.move_on_after(self._keep_alive) as waited:
                await place.changed()
            if waited.cancelled_caught and not place.leases:
                return

    async def _make_room(self, place: _Place) -> None:
        while True:
            freed = self._freed  # whoever goes while memory is looked at must not go unseen
            if await self._occupy(place):
                return
            self._evict()
            await freed.wait()

    async def _occupy(self, place: _Place) -> bool:
        """Whether there is a place, which is then taken. One newcomer at a time: two would share the same memory."""
        async with self._claiming:
            if self._max_models and len(self._occupied) >= self._max_models:
                return False
            coming = any(one.idle or one.evicted for one in self._occupied)
            if not await self._room.claim(place, place.spec, coming=coming, others=bool(self._occupied)):
                return False
            self._occupied.add(place)
            return True

    def _evict(self) -> None:
        """Let the idle model go that was not used for the longest time, unless one is going already."""
        idle = [place for place in self._occupied if place.idle and not place.evicted]
        if idle and not any(place.evicted for place in self._occupied):
            oldest = min(idle, key=lambda place: place.used)
            oldest.evicted = True
            self._forget(oldest)
            oldest.change()

    def _forget(self, place: _Place) -> None:
        if self._places.get(place.spec) is place:
            del self._places[place.spec]

    def _wake(self) -> None:
        """Wake the loads that wait for room."""
        self._freed.set()
        self._freed = anyio.Event()


def _as_load_error(spec: ModelSpec, error: Exception) -> GemmaError:
    if isinstance(error, GemmaError):
        return error
    failed = LoadFailedError(spec.name, f"{type(error).__name__}: {error}", "The engine's log says more.")
    failed.__cause__ = error
    return failed
