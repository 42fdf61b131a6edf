"""Which models are in memory, with real workers."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from gemma_mcp.chat.messages import Message
from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.generation import Call, chat_prompt, completion_prompt, generate
from gemma_mcp.engine.intake import Wanted
from gemma_mcp.engine.metrics import Metrics
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.engine.residency import Residency, Resident
from gemma_mcp.engine.room import Room
from gemma_mcp.errors import LoadFailedError, ModelTooLargeError, UnsupportedError
from gemma_mcp.types import Event, Finished, GenerationRequest, Media, Priority, Text
from gemma_mcp.wire import ChatCompletionRequest, ChatMessage, CompletionRequest, ModelCard

ECHO = ModelSpec(name="echo", format="echo", path="")
OTHER = ModelSpec(name="other", format="echo", path="no-fim no-images")
THIRD = ModelSpec(name="third", format="echo", path="window=64")
LONG = 3600.0


class Loader:
    """Opens echo models once their gate is open, and counts."""

    def __init__(self, log: Path) -> None:
        self.gate = anyio.Event()
        self.gate.set()
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.error: Exception | None = None
        self._log = log

    @asynccontextmanager
    async def open(self, spec: ModelSpec, on_progress: Callable[[float], None]) -> AsyncGenerator[LoadedModel]:
        self.opened.append(spec.name)
        on_progress(0.25)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        async with open_model(
            "echo", spec, LoadOptions(), queue_limit=8, prefill_chunk=64, log=self._log, load_timeout=60
        ) as model:
            yield model
        self.closed.append(spec.name)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path / "worker.log")


@asynccontextmanager
async def residency(
    loader: Loader,
    keep_alive: float = LONG,
    max_models: int = 2,
    unloaded: list[str] | None = None,
    room: Room | None = None,
) -> AsyncGenerator[Residency]:
    def note(resident: Resident) -> None:
        if unloaded is not None:
            unloaded.append(resident.spec.name)

    with anyio.fail_after(60):
        async with Residency(
            loader.open, keep_alive=keep_alive, max_models=max_models, room=room, on_unload=note
        ) as memory:
            yield memory


async def ignore(fraction: float) -> None:
    pass


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_leased_model_answers(loader: Loader) -> None:
    async with residency(loader) as memory, memory.lease(ECHO, ignore) as resident:
        segments = tuple(resident.template.render([Message("user", (Text("hello"),))]))
        async with resident.model.stream(GenerationRequest(segments=segments)) as events:
            ends = [event async for event in events if isinstance(event, Finished)]
        assert ends[0].usage.completion_tokens == 5
        assert resident.card.model == "echo"


async def test_many_waiters_share_one_load_and_see_its_progress(loader: Loader) -> None:
    loader.gate = anyio.Event()
    seen: list[float] = []
    residents: list[Resident] = []

    async def wait(memory: Residency) -> None:
        async def note(fraction: float) -> None:
            seen.append(fraction)

        async with memory.lease(ECHO, note) as resident:
            residents.append(resident)

    async with residency(loader) as memory:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait, memory)
            await until(lambda: seen.count(0.25) == 5)
            assert memory.loading() == {"echo": 0.25}
            loader.gate.set()
        assert loader.opened == ["echo"]
        assert len(set(map(id, residents))) == 1
        assert memory.residents() == [residents[0]]


async def test_a_caller_that_leaves_does_not_end_the_load(loader: Loader) -> None:
    loader.gate = anyio.Event()
    async with residency(loader) as memory:
        with anyio.move_on_after(0.05) as left:
            async with memory.lease(ECHO, ignore):
                raise AssertionError("it cannot be loaded yet")
        assert left.cancelled_caught
        loader.gate.set()
        await until(lambda: len(memory.residents()) == 1)
        async with memory.lease(ECHO, ignore):
            assert loader.opened == ["echo"]


async def test_an_idle_model_is_unloaded_after_keep_alive(loader: Loader) -> None:
    unloaded: list[str] = []
    async with residency(loader, keep_alive=0.05, unloaded=unloaded) as memory:
        async with memory.lease(ECHO, ignore):
            assert unloaded == []
        await until(lambda: loader.closed == ["echo"])
        assert memory.residents() == []
        assert unloaded == ["echo"]
        async with memory.lease(ECHO, ignore):
            assert loader.opened == ["echo", "echo"]


async def test_a_leased_model_outlives_keep_alive(loader: Loader) -> None:
    async with residency(loader, keep_alive=0.01) as memory, memory.lease(ECHO, ignore) as resident:
        async with memory.lease(ECHO, ignore):
            pass
        async with memory.lease(OTHER, ignore):
            pass
        await until(lambda: loader.closed == ["other"])
        assert resident.model.info.architecture == "echo"


async def test_the_least_recently_used_idle_model_makes_room(loader: Loader) -> None:
    async with residency(loader) as memory:
        for spec in (ECHO, OTHER, ECHO, THIRD):
            async with memory.lease(spec, ignore):
                pass
        assert loader.closed == ["other"]
        assert sorted(one.spec.name for one in memory.residents()) == ["echo", "third"]


async def test_a_newcomer_waits_while_no_model_is_idle(loader: Loader) -> None:
    order: list[str] = []

    async def newcomer(memory: Residency) -> None:
        async with memory.lease(OTHER, ignore):
            order.append("other")

    async with residency(loader, max_models=1) as memory, anyio.create_task_group() as tasks:
        async with memory.lease(ECHO, ignore):
            tasks.start_soon(newcomer, memory)
            await until(lambda: "other" in memory.loading())
            order.append("echo")
        await until(lambda: len(order) == 2)
    assert order == ["echo", "other"]
    assert loader.opened == ["echo", "other"]


async def test_a_failed_load_is_told_to_all_who_wait_and_tried_again_later(loader: Loader) -> None:
    loader.gate = anyio.Event()
    loader.error = LoadFailedError("echo", "the disk is gone", "Plug it in.")
    errors: list[LoadFailedError] = []

    async def wait(memory: Residency) -> None:
        with pytest.raises(LoadFailedError, match="the disk is gone") as caught:
            async with memory.lease(ECHO, ignore):
                pass
        errors.append(caught.value)

    async with residency(loader) as memory:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait, memory)
            await until(lambda: loader.opened == ["echo"])
            loader.gate.set()
        assert [error.__cause__ for error in errors] == [loader.error] * 3
        loader.error = None
        async with memory.lease(ECHO, ignore):
            assert loader.opened == ["echo", "echo"]


async def test_an_unexpected_failure_keeps_its_cause(loader: Loader) -> None:
    loader.error = ZeroDivisionError("a bug")
    async with residency(loader) as memory:
        with pytest.raises(LoadFailedError, match="ZeroDivisionError: a bug") as caught:
            async with memory.lease(ECHO, ignore):
                pass
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is loader.error


async def test_models_of_one_name_and_different_files_are_different(loader: Loader) -> None:
    twin = ModelSpec(name="echo", format="echo", path="no-images")
    async with residency(loader) as memory:
        async with memory.lease(ECHO, ignore) as one, memory.lease(twin, ignore) as other:
            assert (one.card.images, other.card.images) == (True, False)


async def test_what_a_model_cannot_do_is_said_before_it_tries(loader: Loader) -> None:
    async with residency(loader) as memory, memory.lease(OTHER, ignore) as resident:
        with pytest.raises(UnsupportedError, match="fill in the middle"):
            completion_prompt(CompletionRequest(model="other", prompt="a", suffix="b"))(resident)
        with pytest.raises(UnsupportedError, match="does not see images"):
            chat_prompt((Message("user", (Media(b"x"), Text("what?"))),))(resident)


class Listener:
    """Takes a reply."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def loading(self, fraction: float) -> None:
        pass

    async def started(self, card: ModelCard) -> None:
        pass

    async def event(self, event: Event, index: int) -> None:
        self.events.append(event)


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
async def test_the_priority_of_a_request_reaches_the_model(
    loader: Loader, monkeypatch: pytest.MonkeyPatch, priority: Priority
) -> None:
    seen: list[GenerationRequest] = []
    stream = LoadedModel.stream

    def listen(self: LoadedModel, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        seen.append(request)
        return stream(self, request)

    monkeypatch.setattr(LoadedModel, "stream", listen)
    options = ChatCompletionRequest(
        model="echo", messages=(ChatMessage(role="user", content="hello"),), priority=priority
    )
    prompt = chat_prompt((Message("user", (Text("hello"),)),))
    call = Call(options, prompt, Wanted(), max_tokens=2, logprobs=None, received=time.monotonic())
    listener = Listener()
    async with residency(loader) as memory:
        await generate(call, ECHO, memory, Metrics(list), listener)
    assert [request.priority for request in seen] == [priority]
    assert isinstance(listener.events[-1], Finished)


class Sizes:
    """A room of so many units, in which every model takes a number of them by its name."""

    def __init__(self, total: int, **sizes: int) -> None:
        self.total = total
        self.sizes = sizes
        self.held: dict[Hashable, int] = {}
        self.settled: list[Hashable] = []

    async def claim(self, key: Hashable, spec: ModelSpec, *, coming: bool, others: bool) -> bool:
        size = self.sizes[spec.name]
        if size > self.total:
            raise ModelTooLargeError(spec.name, str(size), str(self.total), "Take a smaller one.")
        await anyio.lowlevel.checkpoint()
        if size > self.total - sum(self.held.values()):
            assert others
            return False
        self.held[key] = size
        return True

    def settle(self, key: Hashable, resident: Callable[[], int]) -> None:
        assert resident() > 0
        self.settled.append(key)

    def release(self, key: Hashable) -> None:
        self.held.pop(key, None)


async def test_idle_models_leave_until_the_newcomer_fits_the_least_recently_used_first(loader: Loader) -> None:
    room = Sizes(10, echo=3, other=3, third=6)
    async with residency(loader, max_models=0, room=room) as memory:
        for spec in (OTHER, ECHO):
            async with memory.lease(spec, ignore):
                pass
        assert len(room.settled) == 2
        async with memory.lease(THIRD, ignore):
            assert loader.closed == ["other"]
            assert sorted(room.held.values()) == [3, 6]
        async with memory.lease(OTHER, ignore):
            assert loader.closed == ["other", "echo"]
        room.total = 9
        room.sizes["echo"] = 9
        async with memory.lease(ECHO, ignore):
            assert loader.closed == ["other", "echo", "third", "other"]
    assert room.held == {}


async def test_as_many_models_stay_as_there_is_memory_for(loader: Loader) -> None:
    async with residency(loader, max_models=0, room=Sizes(9, echo=3, other=3, third=3)) as memory:
        for spec in (ECHO, OTHER, THIRD):
            async with memory.lease(spec, ignore):
                pass
        assert loader.closed == []
        assert len(memory.residents()) == 3


async def test_a_newcomer_waits_for_the_memory_of_a_model_that_works(loader: Loader) -> None:
    order: list[str] = []

    async def newcomer(memory: Residency) -> None:
        async with memory.lease(OTHER, ignore):
            order.append("other")

    room = Sizes(5, echo=3, other=3)
    async with residency(loader, max_models=0, room=room) as memory, anyio.create_task_group() as tasks:
        async with memory.lease(ECHO, ignore):
            tasks.start_soon(newcomer, memory)
            await until(lambda: "other" in memory.loading())
            order.append("echo")
        await until(lambda: len(order) == 2)
    assert order == ["echo", "other"]


async def test_a_model_that_can_never_fit_is_refused_and_drives_nobody_out(loader: Loader) -> None:
    async with residency(loader, max_models=0, room=Sizes(5, echo=3, other=6)) as memory:
        async with memory.lease(ECHO, ignore):
            pass
        with pytest.raises(ModelTooLargeError, match="'other' does not fit into memory: it needs 6; 5"):
            async with memory.lease(OTHER, ignore):
                pass
        assert loader.opened == ["echo"]
        assert loader.closed == []


async def test_memory_of_a_load_that_failed_is_free_again(loader: Loader) -> None:
    room = Sizes(3, echo=3, other=3)
    loader.error = LoadFailedError("echo", "the disk is gone", "Plug it in.")
    async with residency(loader, max_models=0, room=room) as memory:
        with pytest.raises(LoadFailedError):
            async with memory.lease(ECHO, ignore):
                pass
        assert room.held == {}
        loader.error = None
        async with memory.lease(OTHER, ignore):
            assert loader.opened == ["echo", "other"]
