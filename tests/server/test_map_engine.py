"""`map_files` on a real engine with the echo backend: its accidents, its queue, its counts of requests."""

import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from map_calls import numbered
from mcp import Client
from project_trees import write
from scripted_engine import texts

from gemma_mcp.server.app import build_server
from gemma_mcp.testing.engines import EngineHome

LATENESS = 60.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Generator[EngineHome]:
    given = {"GEMMA_MCP_MODEL_DEFAULT": "echo", "GEMMA_MCP_ENGINE_QUEUE_LIMIT": "2", "GEMMA_MCP_LLAMACPP_SLOTS": "2"}
    home = EngineHome(tmp_path_factory.mktemp("home"), given)
    yield home
    assert home.end() == []


@asynccontextmanager
async def client_of(home: EngineHome, project: Path, **limits: Any) -> AsyncGenerator[Client]:
    settings = home.settings.model_copy(update={"map": home.settings.map.model_copy(update=limits)})
    async with home.pool() as pool, Client(build_server(pool, settings, project, home.places)) as client:
        yield client


async def replies_of(home: EngineHome) -> int:
    """How many replies the engine has cut off at max_tokens since it started."""
    state = home.state()
    async with httpx2.AsyncClient(trust_env=False) as http:
        reply = await http.get(f"{state.url}/metrics", headers={"authorization": f"Bearer {state.token}"})
    counts = re.findall(r'gemma_replies_total\{[^}]*reason="length"[^}]*\} (\S+)', reply.text)
    return sum(map(round, map(float, counts)))


async def mapped(client: Client, instruction: str, **arguments: Any) -> str:
    with anyio.fail_after(LATENESS):
        result = await client.call_tool("map_files", {"instruction": instruction, "files": ["*.txt"]} | arguments)
    return texts(result)[0]


async def test_a_call_that_is_taken_back_leaves_the_rest_to_the_next_one(home: EngineHome, project: Path) -> None:
    write(project, numbered(8))
    started = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        if "2 of 8 files" in (message or "") or "3 of 8 files" in (message or ""):
            started.set()

    async with client_of(home, project) as client:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                given = {"instruction": "!slow 0.005 Say it.", "files": ["*.txt"], "max_tokens": 15}
                await client.call_tool("map_files", given, progress_callback=told)

            tasks.start_soon(call)
            with anyio.fail_after(LATENESS):
                await started.wait()
            tasks.cancel_scope.cancel()
        (path,) = (home.places.maps / "results").glob("*.jsonl")
        kept = path.read_bytes().count(b"\n")
        before = await replies_of(home)
        digest = await mapped(client, "!slow 0.005 Say it.", max_tokens=15)
        assert digest.startswith(f"8 files: 8 done ({kept} by an earlier call, ")
        assert await replies_of(home) - before == 8 - kept
        before = await replies_of(home)
        assert "8 by an earlier call" in await mapped(client, "!slow 0.005 Say it.", max_tokens=15)
        assert await replies_of(home) == before


async def test_a_queue_that_is_shorter_than_the_crowd_is_waited_for(home: EngineHome, project: Path) -> None:
    write(project, numbered(20))
    async with client_of(home, project, at_once=12) as client:
        assert (await mapped(client, "Say.")).startswith("20 files: 20 done\n")


async def test_a_worker_that_dies_and_records_that_break_are_one_records_affair(
    home: EngineHome, project: Path, tmp_path: Path
) -> None:
    write(project, numbered(3))
    async with client_of(home, project) as client:
        died = tmp_path / "died"
        assert (await mapped(client, f"!once {died} !die-at 3 Say.")).startswith("3 files: 3 done\n")
        assert died.exists()
        failed = await mapped(client, "!fail Say.")
        assert failed.startswith("3 files: 0 done, 3 failed\n")
        assert "- 3 x The turn ordered a failure." in failed


async def test_an_engine_that_is_killed_is_started_again(home: EngineHome, project: Path) -> None:
    write(project, numbered(4))
    killed = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        if " tok/s" in (message or "") and not killed.is_set():
            killed.set()
            for process in home.processes():
                process.kill()

    async with client_of(home, project) as client:
        given = {"instruction": "!slow 0.01 Say it.", "files": ["*.txt"]}
        with anyio.fail_after(LATENESS):
            result = await client.call_tool("map_files", given, progress_callback=told)
    assert killed.is_set()
    assert texts(result)[0].startswith("4 files: 4 done\n")
