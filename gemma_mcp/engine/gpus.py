"""How much memory the GPU has that a model will be loaded on."""

import logging
from collections.abc import Sequence

from gemma_mcp.engine.probe import GpuBackend, probe_memory
from gemma_mcp.engine.registry import Registry
from gemma_mcp.errors import GemmaError
from gemma_mcp.settings import Settings
from gemma_mcp.types import DeviceMemory

__all__ = ["gpu_memory"]

LLAMACPP = "llamacpp"
"""The backend whose need of memory is known beforehand."""

logger = logging.getLogger(__name__)


async def gpu_memory(settings: Settings, registry: Registry) -> DeviceMemory | None:
    """The memory of the GPU that llama.cpp will use; None without one. Asks in a child process, when there may be one.

    Where the driver does not answer that is logged, and the model is taken to be computed by the processor.
    """
    if not settings.llamacpp.gpu_layers or settings.backend.device.casefold() == "cpu":
        return None
    try:
        backend = registry.ready(LLAMACPP) if LLAMACPP in registry.names() else None
        if not isinstance(backend, GpuBackend) or not backend.may_have_gpu():
            return None
        return _chosen(await probe_memory(LLAMACPP), settings.backend.device)
    except GemmaError as error:
        logger.warning("The GPU's memory is not known: %s", error)
        return None


def _chosen(devices: Sequence[DeviceMemory], wanted: str) -> DeviceMemory | None:
    """The device that llama.cpp takes for a name; "auto" is the first one."""
    named = [one for one in devices if wanted == "auto" or one.name.casefold() == wanted.casefold()]
    return named[0] if named else None
