"""Memory for models: what is free, what a model that comes in may take of it, and under which terms it fits."""

import sys
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio.to_thread
import psutil

from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.gpus import gpu_memory
from gemma_mcp.engine.registry import Registry
from gemma_mcp.hardware import Hardware, measure
from gemma_mcp.models.fit import Fit, Free, Model, best_fit
from gemma_mcp.models.memory import Estimate, Need
from gemma_mcp.models.wish import model_of, too_large, wish_of
from gemma_mcp.settings import Settings
from gemma_mcp.types import DeviceMemory

__all__ = ["HEADROOM_BYTES", "Boundless", "MemoryRoom", "Room", "resident_bytes"]

HEADROOM_BYTES = 256 << 20
"""Left to the rest of the machine: what an estimate misses, and what other programs take meanwhile."""

GpuMemory = Callable[[Settings, Registry], Awaitable[DeviceMemory | None]]


class Room(Protocol):
    """Where models find memory. `key` stands for one load of a model: it may come again before it has gone."""

    async def claim(self, key: Hashable, spec: ModelSpec, *, coming: bool, others: bool) -> bool:
        """Set memory aside for a model; False when it should ask again once another one has gone.

        `coming`: one that is idle could go, or is going already. `others`: there are other models at all. Raises
        ModelTooLargeError when the model fits under no terms that it may be loaded under.
        """
        ...

    def settle(self, key: Hashable, resident: Callable[[], int]) -> None:
        """The model is loaded. `resident` says how much of its memory is no longer free by now, in bytes."""
        ...

    def release(self, key: Hashable) -> None:
        """The model has gone, or was not loaded."""
        ...


class Boundless:
    """Room for everything."""

    async def claim(self, key: Hashable, spec: ModelSpec, *, coming: bool, others: bool) -> bool:
        """See Room."""
        return True

    def settle(self, key: Hashable, resident: Callable[[], int]) -> None:
        """See Room."""

    def release(self, key: Hashable) -> None:
        """See Room."""


@dataclass
class _Claim:
    """A model's share: its terms, and how much of it shows in what the machine says is free."""

    spec: ModelSpec
    fit: Fit
    resident: Callable[[], int] | None = None

    @property
    def unseen(self) -> Estimate:
        """What it will take beside what it has taken. A GPU's memory is taken at once, when the model is loaded."""
        need = self.fit.estimate
        if self.resident is None:
            return need
        return Estimate(Need(process_bytes=max(0, need.host.total_bytes - self.resident())))


@dataclass
class MemoryRoom:
    """The machine's memory, and the GPU's, as llama.cpp's models use them. Models of other formats always have room."""

    settings: Settings
    registry: Registry
    hardware: Callable[[], Hardware] = measure
    gpu: GpuMemory = gpu_memory
    _claims: dict[Hashable, _Claim] = field(default_factory=dict[Hashable, _Claim])
    _models: dict[Hashable, Model | None] = field(default_factory=dict[Hashable, Model | None])

    async def claim(self, key: Hashable, spec: ModelSpec, *, coming: bool, others: bool) -> bool:
        """See Room. To have all that is wished for is worth the memory of idle models, and no waiting for busy ones."""
        model = await self._model(key, spec)
        if model is None:
            return True
        free = await self._free()
        wish = wish_of(self.settings.llamacpp)
        most = self._with_others_gone(free) if free else None
        fit = await anyio.to_thread.run_sync(best_fit, model, wish, free)
        better = await anyio.to_thread.run_sync(best_fit, model, wish, most) if coming or fit is None else fit
        if fit is not None and better is not None and better.terms == fit.terms:
            self._claims[key] = _Claim(spec, fit)
            return True
        if most is not None and (better is None or not others):
            raise await anyio.to_thread.run_sync(too_large, model, wish, most)
        return False

    def settle(self, key: Hashable, resident: Callable[[], int]) -> None:
        """See Room."""
        if key in self._claims:
            self._claims[key].resident = resident

    def release(self, key: Hashable) -> None:
        """See Room."""
        self._claims.pop(key, None)
        self._models.pop(key, None)

    def fit(self, spec: ModelSpec) -> Fit | None:
        """The terms that were found for a model last; None for one that has no claim."""
        found = [claim.fit for claim in self._claims.values() if claim.spec == spec]
        return found[-1] if found else None

    async def _model(self, key: Hashable, spec: ModelSpec) -> Model | None:
        if key not in self._models:
            ours = self.settings.backend.name in ("auto", "llamacpp")
            self._models[key] = await anyio.to_thread.run_sync(model_of, spec) if ours else None
        return self._models[key]

    async def _free(self) -> Free | None:
        """What a further model may take; None when that is not known, or nobody is to look at it."""
        hardware = self.hardware()
        if not self.settings.engine.check_memory or not hardware.memory_bytes:
            return None
        unseen = [claim.unseen for claim in self._claims.values()]
        host = hardware.available_bytes - HEADROOM_BYTES - sum(one.host.total_bytes for one in unseen)
        device = await self.gpu(self.settings, self.registry)
        if device is None:
            return Free(max(0, host))
        taken = sum(one.gpu.total_bytes for one in unseen)
        left = device.free_bytes - HEADROOM_BYTES - taken
        return Free(max(0, host - (taken if device.shared else 0)), max(0, left), device.shared)

    def _with_others_gone(self, free: Free) -> Free:
        """What would be free if all other models went."""
        needs = [claim.fit.estimate for claim in self._claims.values()]
        host = free.host_bytes + sum(need.host.total_bytes for need in needs)
        gpu = None if free.gpu_bytes is None else free.gpu_bytes + sum(need.gpu.total_bytes for need in needs)
        return replace(free, host_bytes=host, gpu_bytes=gpu)


def resident_bytes(pid: int | None) -> int:
    """How much of a process's memory the machine does not count as free; 0 for one that is gone.

    Linux counts the mapped pages of files as free, since it may drop them; a model needs them all the same.
    """
    try:
        memory = psutil.Process(pid).memory_info() if pid else None
    except (psutil.Error, OSError):
        return 0
    if memory is None:
        return 0
    return memory.rss - memory.shared if sys.platform == "linux" else memory.rss
