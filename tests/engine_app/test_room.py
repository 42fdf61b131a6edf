"""Memory for models: what is claimed, what is left, and what a refusal says."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gemma_mcp.engine.backend import ModelSpec
from gemma_mcp.engine.gpus import gpu_memory
from gemma_mcp.engine.probe import probe_memory
from gemma_mcp.engine.registry import Registry
from gemma_mcp.engine.room import HEADROOM_BYTES, MemoryRoom, resident_bytes
from gemma_mcp.engine.selector import choose
from gemma_mcp.errors import ModelTooLargeError
from gemma_mcp.hardware import Hardware
from gemma_mcp.models.lookup import starter_model
from gemma_mcp.models.memory import Need, estimate
from gemma_mcp.models.wish import model_of, wish_of
from gemma_mcp.settings import Settings
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.types import DeviceMemory

STARTER = starter_model(Path(__file__).parents[2] / "gemma_mcp" / "starter")
SECOND = ModelSpec(name="second", format="gguf", path=STARTER.path)
ECHO = ModelSpec(name="echo", format="echo", path="")


@dataclass
class Machine:
    """A room in a machine whose free memory a test sets."""

    settings: Settings
    free: int = 0
    gpu: DeviceMemory | None = None

    def room(self) -> MemoryRoom:
        async def gpu(settings: Settings, registry: Registry) -> DeviceMemory | None:
            return self.gpu

        return MemoryRoom(self.settings, Registry.installed(), lambda: Hardware(2, 2, 64 << 30, self.free), gpu)

    def need(self, spec: ModelSpec = STARTER, **changes: int) -> Need:
        """What a model needs of the machine with all that is wished for, but for the changes."""
        model = model_of(spec)
        assert model is not None
        terms = replace(wish_of(self.settings.llamacpp).terms, **{"gpu_layers": 0, **changes})
        return estimate(model.shape, terms, model.encoder).host


Make = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path) -> Make:
    """A machine with settings."""

    def make(**settings: str) -> Machine:
        environ = {f"GEMMA_MCP_{key.upper()}": value for key, value in settings.items()}
        return Machine(EngineHome(tmp_path / "home", environ).settings)

    return make


async def test_a_model_gets_what_is_wished_for_where_it_fits(machine: Make) -> None:
    here = machine()
    here.free = here.need().total_bytes + HEADROOM_BYTES
    room = here.room()
    assert await room.claim(1, STARTER, coming=True, others=True)
    fit = room.fit(STARTER)
    assert fit is not None
    assert (fit.terms.slots, fit.terms.context, fit.given_up) == (4, 2048, ())
    options = choose(STARTER, here.settings, Registry.installed(), fit)[0]
    assert (options.options.slots, options.options.context_length) == (4, 2048)
    assert options.reason.endswith("; 4 x 2,048 tokens, needs " + options.reason.rpartition(" needs ")[2])


async def test_idle_models_go_before_anything_is_given_up(machine: Make) -> None:
    here = machine()
    here.free = here.need().total_bytes + HEADROOM_BYTES
    room = here.room()
    assert await room.claim(1, STARTER, coming=False, others=False)
    room.settle(1, lambda: here.need().total_bytes)
    here.free = here.need(SECOND, slots=2).total_bytes + HEADROOM_BYTES
    assert not await room.claim(2, SECOND, coming=True, others=True)
    assert room.fit(SECOND) is None
    assert await room.claim(2, SECOND, coming=False, others=True)
    fit = room.fit(SECOND)
    assert fit is not None
    assert fit.given_up == ("2 instead of 4 slots",)
    assert choose(SECOND, here.settings, Registry.installed(), fit)[0].options.slots == 2


async def test_memory_that_is_promised_is_not_promised_again(machine: Make) -> None:
    here = machine()
    need = here.need().total_bytes
    here.free = need + here.need(SECOND).total_bytes + HEADROOM_BYTES
    room = here.room()
    assert await room.claim(1, STARTER, coming=False, others=False)
    assert await room.claim(2, SECOND, coming=False, others=True)
    assert not await room.claim(3, SECOND, coming=False, others=True)
    here.free -= need // 2
    room.settle(1, lambda: need // 2)
    assert not await room.claim(3, SECOND, coming=False, others=True)
    room.release(2)
    assert await room.claim(3, SECOND, coming=False, others=True)
    fit = room.fit(SECOND)
    assert fit is not None
    assert fit.given_up == ()


async def test_what_can_never_fit_is_refused_while_others_stay(machine: Make) -> None:
    here = machine(llamacpp_slots="64")
    need = here.need().total_bytes
    room = here.room()
    here.free = HEADROOM_BYTES + need // 2
    with pytest.raises(ModelTooLargeError, match=r"'starter'.*needs .*KV cache.* can be had\.") as caught:
        await room.claim(1, STARTER, coming=True, others=True)
    assert caught.value.hint.startswith("This fits: llamacpp.slots = ")
    assert room.fit(STARTER) is None


async def test_a_number_of_the_users_own_is_not_reduced(machine: Make) -> None:
    here = machine(llamacpp_slots="4")
    here.free = HEADROOM_BYTES + here.need(slots=4).total_bytes - 1
    with pytest.raises(ModelTooLargeError, match="starter"):
        await here.room().claim(1, STARTER, coming=False, others=False)


async def test_who_does_not_want_memory_to_be_looked_at_gets_everything(machine: Make) -> None:
    here = machine(engine_check_memory="false")
    room = here.room()
    assert await room.claim(1, STARTER, coming=False, others=False)
    fit = room.fit(STARTER)
    assert fit is not None
    assert (fit.terms.slots, fit.terms.gpu_layers) == (4, -1)


async def test_a_gpu_takes_the_layers_that_fit(machine: Make) -> None:
    here = machine()
    here.free = 1 << 40
    here.gpu = DeviceMemory(name="CUDA0", total_bytes=1 << 40, free_bytes=1 << 40)
    room = here.room()
    assert await room.claim(1, STARTER, coming=False, others=False)
    fit = room.fit(STARTER)
    assert fit is not None
    assert fit.terms.gpu_layers == -1
    taken = fit.estimate.gpu.total_bytes
    here.gpu = DeviceMemory(name="CUDA0", total_bytes=taken, free_bytes=HEADROOM_BYTES + taken)
    assert await room.claim(2, SECOND, coming=False, others=True)
    second = room.fit(SECOND)
    assert second is not None
    assert second.terms.gpu_layers == 0


async def test_models_of_other_formats_always_have_room(machine: Make) -> None:
    room = machine().room()
    assert await room.claim(1, ECHO, coming=False, others=False)
    assert room.fit(ECHO) is None
    room.settle(1, lambda: 0)
    room.release(1)


async def test_a_backend_without_gpus_is_not_asked_for_their_memory(machine: Make) -> None:
    assert await probe_memory("echo") == ()
    assert await gpu_memory(machine().settings, Registry([])) is None
    assert await gpu_memory(machine(llamacpp_gpu_layers="0").settings, Registry.installed()) is None


async def test_the_memory_of_llama_cpps_gpus_can_be_asked_for() -> None:
    for device in await probe_memory("llamacpp"):
        assert 0 <= device.free_bytes <= device.total_bytes


def test_the_memory_of_a_process_that_is_gone_is_nothing() -> None:
    assert resident_bytes(None) == 0
    assert resident_bytes(2**31 - 1) == 0
