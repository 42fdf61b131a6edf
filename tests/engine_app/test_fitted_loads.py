"""The engine's service with a real model, in a machine whose free memory the test decides."""

from pathlib import Path

import anyio
import pytest

from gemma_mcp.engine.room import HEADROOM_BYTES
from gemma_mcp.engine.service import Service, open_service, state_of
from gemma_mcp.errors import ModelTooLargeError
from gemma_mcp.hardware import Hardware
from gemma_mcp.models.lookup import STARTER
from gemma_mcp.models.memory import estimate
from gemma_mcp.models.wish import model_of, wish_of
from gemma_mcp.testing.engines import EngineHome


async def ignore(fraction: float) -> None:
    pass


async def set_memory(service: Service, slots: int, spare: int = 0) -> None:
    """Let there be as much free memory as the starter takes with so many slots."""
    model = model_of(await service.specs.find(STARTER))
    assert model is not None
    terms = wish_of(service.settings.llamacpp).terms
    need = estimate(model.shape, type(terms)(2048, slots, terms.step_tokens), model.encoder).host.total_bytes
    free = need + HEADROOM_BYTES + spare
    service.room.hardware = lambda: Hardware(2, 2, 64 << 30, free)


async def test_a_model_is_loaded_as_it_fits_and_the_status_says_so(tmp_path: Path) -> None:
    home = EngineHome(tmp_path / "home", {"GEMMA_MCP_LLAMACPP_GPU_LAYERS": "0"})
    with anyio.fail_after(60):
        async with open_service(home.settings, home.places, state_of("token", 1, "print")) as service:
            await set_memory(service, slots=1)
            spec = await service.specs.find(STARTER)
            async with service.residency.lease(spec, ignore) as resident:
                assert (resident.model.info.slots, resident.model.info.context_length) == (1, 2048)
                told = service.status().models[0].fit
    assert told.startswith("1 x 2,048 tokens, needs ")
    assert told.endswith(" (to save memory: 1 instead of 4 slots)")


async def test_what_cannot_fit_is_refused_before_a_worker_starts(tmp_path: Path) -> None:
    home = EngineHome(tmp_path / "home", {"GEMMA_MCP_LLAMACPP_GPU_LAYERS": "0", "GEMMA_MCP_LLAMACPP_SLOTS": "4"})
    with anyio.fail_after(60):
        async with open_service(home.settings, home.places, state_of("token", 1, "print")) as service:
            await set_memory(service, slots=4, spare=-1)
            spec = await service.specs.find(STARTER)
            with pytest.raises(ModelTooLargeError, match=r"'starter' does not fit into memory: it needs .* MiB"):
                async with service.residency.lease(spec, ignore):
                    pass
            assert service.status().models == ()
            assert not list(home.places.logs.glob("worker*"))
            await set_memory(service, slots=4)
            async with service.residency.lease(spec, ignore) as resident:
                assert resident.model.info.slots == 4
