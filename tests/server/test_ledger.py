"""What calls spare a client and what they cost it. With the scripted engine, a token is a character."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from scripted_engine import Connect, ScriptedEngines, finished, said, texts

from gemma_mcp.errors import RemoteError
from gemma_mcp.places import Places
from gemma_mcp.server.app import INSTRUCTIONS
from gemma_mcp.server.ledger import Ledger, Outcome
from gemma_mcp.server.savings import Figures, SavingsStore, savings_path
from gemma_mcp.state import EngineStatus, LoadedStatus
from gemma_mcp.wire import TokenCounts

ERAS = ["auto", "legacy"]


def engine_with(*models: LoadedStatus) -> EngineStatus:
    return EngineStatus(pid=1, port=2, version="0", wire_version=1, fingerprint="", started=0.0, models=models)


@pytest.fixture
def store(places: Places) -> SavingsStore:
    return SavingsStore(savings_path(places))


@pytest.fixture(autouse=True)
def loaded(engines: ScriptedEngines) -> None:
    """The model that answers is in memory."""
    engines.status = engine_with(LoadedStatus(model="scripted"))


async def schemas_of(client: Client) -> int:
    """Characters of what a client's model is told of the tools."""
    tools = (await client.list_tools()).tools
    told = [{"name": tool.name, "description": tool.description, "input_schema": tool.input_schema} for tool in tools]
    return len(INSTRUCTIONS) + sum(len(json.dumps(about, ensure_ascii=False)) for about in told)


@pytest.mark.parametrize("era", ERAS)
async def test_files_count_for_and_results_and_schemas_against(
    connect: Connect, project: Path, store: SavingsStore, era: str
) -> None:
    (project / "long.txt").write_text("x" * 50_000 + "\n", encoding="utf-8")
    async with connect(era) as client:
        schemas = await schemas_of(client)
        result = await client.call_tool("generate_text", {"prompt": "Sum it up.", "files": ["long.txt"]})
    shown = sum(map(len, texts(result)))
    assert store.total() == Figures(sessions=1, calls=1, file_tokens=50_001, result_tokens=shown, schema_tokens=schemas)
    assert store.total().saved == 50_001 - shown - schemas


async def test_a_text_counts_once_a_session_and_schemas_too(
    connect: Connect, project: Path, store: SavingsStore
) -> None:
    (project / "a.txt").write_text("a" * 100, encoding="utf-8")
    (project / "b.txt").write_text("b" * 10, encoding="utf-8")
    async with connect() as client:
        schemas = await schemas_of(client)
        for files in (["a.txt"], ["a.txt", "b.txt"], ["b.txt"]):
            await client.call_tool("generate_text", {"prompt": "x", "files": files})
        await client.call_tool("chat", {"message": "x", "files": ["a.txt"]})
    assert store.total().file_tokens == 110
    assert store.total().calls == 4
    assert store.total().schema_tokens == schemas
    async with connect() as client:
        await client.call_tool("chat", {"message": "x", "files": ["a.txt"]})
    assert store.total().file_tokens == 210
    assert store.total().sessions == 2


async def test_a_call_without_files_costs_what_it_brought(connect: Connect, store: SavingsStore) -> None:
    async with connect() as client:
        schemas = await schemas_of(client)
        result = await client.call_tool("generate_text", {"prompt": "x" * 10_000})
    assert store.total().saved == -sum(map(len, texts(result))) - schemas


async def test_a_refusal_costs_its_sentence(connect: Connect, project: Path, store: SavingsStore) -> None:
    (project / "a.txt").write_text("a" * 100, encoding="utf-8")
    async with connect() as client:
        schemas = await schemas_of(client)
        refused = await client.call_tool("generate_text", {"prompt": "x", "files": ["a.txt", "gone.txt"]})
    assert refused.is_error
    (sentence,) = texts(refused)
    assert store.total() == Figures(1, 1, 0, 0, len(sentence), schemas)


async def test_code_that_was_read_at_several_places_counts_once(
    connect: Connect, engines: ScriptedEngines, project: Path, store: SavingsStore
) -> None:
    engines.play([said("pass"), finished()])
    (project / "a.py").write_text("def one():\n    \n\ndef two():\n    \n", encoding="utf-8")
    async with connect() as client:
        for line in (2, 5):
            done = await client.call_tool("complete_code", {"file": "a.py", "line": line})
            assert not done.is_error, done.content
        await client.call_tool("complete_code", {"prefix": "given = ", "suffix": "\n"})
    assert store.total().file_tokens == len((project / "a.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "status",
    [
        None,
        engine_with(),
        engine_with(LoadedStatus(model="another")),
        engine_with(LoadedStatus(model="scripted", loading=0.5)),
    ],
)
async def test_no_engine_is_started_and_no_model_loaded_to_count(
    connect: Connect, engines: ScriptedEngines, store: SavingsStore, status: EngineStatus | None
) -> None:
    engines.status = status
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x"})
    assert engines.counted == []
    assert store.total() == Figures(calls=1, unknown=1)


async def test_a_model_is_counted_with_under_the_name_it_was_asked_by(
    connect: Connect, engines: ScriptedEngines
) -> None:
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "x", "model": "/models/scripted.gguf"})
    ((model, _),) = engines.counted
    assert model == "/models/scripted.gguf"


class Counting(ScriptedEngines):
    """Counts when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = anyio.Event()
        self.error: Exception | None = None
        self.status = engine_with(LoadedStatus(model="m"))

    async def count_tokens(self, model: str, texts: Sequence[str]) -> TokenCounts:
        await self.let.wait()
        if self.error is not None:
            raise self.error
        return await super().count_tokens(model, texts)


@asynccontextmanager
async def ledger_of(engines: Counting, store: SavingsStore) -> AsyncGenerator[Ledger]:
    ledger = Ledger(engines, "m", ["schema"], store)
    async with ledger.counting():
        yield ledger


def outcome(shown: str, *read: str) -> Outcome:
    return Outcome((shown,), read, "m", "m")


async def test_an_answer_does_not_wait_for_its_count(store: SavingsStore) -> None:
    engines = Counting()
    async with ledger_of(engines, store) as ledger:
        ledger.note(outcome("result", "text of a file"))
        assert ledger.session == Figures()
        engines.let.set()
        await ledger.settled(30)
        assert ledger.session == Figures(1, 1, 0, len("text of a file"), len("result"), len("schema"))


@pytest.mark.parametrize("error", [RemoteError("The engine ended."), ValueError("nonsense")])
async def test_a_count_that_fails_is_unknown_and_the_next_one_makes_up_for_the_schemas(
    store: SavingsStore, error: Exception
) -> None:
    engines = Counting()
    engines.let.set()
    async with ledger_of(engines, store) as ledger:
        engines.error = error
        ledger.note(outcome("result", "file"))
        await ledger.settled(30)
        assert ledger.session == Figures(calls=1, unknown=1)
        engines.error = None
        ledger.note(outcome("result", "file"))
        await ledger.settled(30)
    assert store.total() == Figures(1, 2, 1, len("file"), len("result"), len("schema"))


async def test_what_is_not_counted_when_the_server_ends_is_unknown(store: SavingsStore) -> None:
    async with ledger_of(Counting(), store) as ledger:
        ledger.note(outcome("one", "file"))
        ledger.note(outcome("two"))
    assert store.total() == Figures(calls=2, unknown=2)


async def test_calls_beyond_what_may_wait_are_unknown(store: SavingsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemma_mcp.server.ledger.MOST_WAITING_CHARACTERS", 100)
    engines = Counting()
    async with ledger_of(engines, store) as ledger:
        ledger.note(outcome("a long one", "x" * 1000))
        ledger.note(outcome("one too many"))
        engines.let.set()
        await ledger.settled(30)
    assert (store.total().calls, store.total().unknown, store.total().file_tokens) == (2, 1, 1000)


async def test_figures_that_could_not_be_saved_are_saved_with_the_next_ones(
    store: SavingsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = Counting()
    engines.let.set()
    store.path.parent.parent.mkdir()
    store.path.parent.write_text("in the way", encoding="utf-8")
    async with ledger_of(engines, store) as ledger:
        ledger.note(outcome("one"))
        await ledger.settled(30)
        assert ledger.problem is not None
        store.path.parent.unlink()
        assert (await ledger.total()).calls == 1
        ledger.note(outcome("two"))
        await ledger.settled(30)
        assert ledger.problem is None
    assert store.total().calls == 2


async def test_cancelled_calls_bring_nothing_and_cost_nothing(
    connect: Connect, engines: ScriptedEngines, store: SavingsStore
) -> None:
    engines.play([anyio.Event(), finished()])
    async with connect() as client, anyio.create_task_group() as tasks:

        async def call() -> Any:
            return await client.call_tool("generate_text", {"prompt": "x"})

        tasks.start_soon(call)
        await engines.entered.wait()
        tasks.cancel_scope.cancel()
    assert store.total() == Figures()
