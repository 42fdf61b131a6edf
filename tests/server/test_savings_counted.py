"""Savings by real servers with real engines and tokenizers, checked against counts that were made independently."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.types import TextResourceContents
from scripted_engine import texts
from server_pipes import client_of, home_in

from gemma_mcp.server.app import INSTRUCTIONS
from gemma_mcp.server.savings import Figures, SavingsStore, savings_path
from gemma_mcp.testing.engines import EngineHome

ERAS = ["2026-07-28", "legacy"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EngineHome]:
    home = home_in(tmp_path / "home")
    yield home
    home.end()


async def status(client: Client) -> str:
    (content,) = (await client.read_resource("gemma://status")).contents
    assert isinstance(content, TextResourceContents)
    return content.text


async def told(client: Client) -> list[str]:
    """What the tools tell a client's model."""
    tools = (await client.list_tools()).tools
    schemas = [{"name": one.name, "description": one.description, "input_schema": one.input_schema} for one in tools]
    return [INSTRUCTIONS, *(json.dumps(schema, ensure_ascii=False) for schema in schemas)]


def bytes_of(parts: list[str]) -> int:
    """The tokens of the echo model are the bytes."""
    return sum(len(part.encode()) for part in parts)


@pytest.mark.parametrize("era", ERAS)
async def test_bytes_are_counted_for_the_echo_model(home: EngineHome, project: Path, era: str) -> None:
    text = "für\n" * 500
    (project / "a.txt").write_text(text, encoding="utf-8", newline="")
    async with client_of(home.environ, project, era) as client:
        result = await client.call_tool("generate_text", {"prompt": "!repeat 1 done", "files": ["a.txt"]})
        refused = await client.call_tool("generate_text", {"prompt": "x", "files": ["gone.txt"]})
        schemas = await told(client)
        document = await status(client)
    shown = [*texts(result), *texts(refused)]
    expected = Figures(
        sessions=1,
        calls=2,
        file_tokens=bytes_of([text]),
        result_tokens=bytes_of(shown),
        schema_tokens=bytes_of(schemas),
    )
    assert SavingsStore(savings_path(home.places)).total() == expected
    assert re.search(rf"\*\*saved\*\* +\| \*\*{expected.saved:,}\*\* +\| \*\*{expected.saved:,}\*\*", document)


async def test_the_starter_counts_as_the_prompts_that_it_reads(home: EngineHome, project: Path) -> None:
    """A plain completion's prompt tokens, less the one that begins every prompt, are what a text has."""
    text = "Gregory went to the market. There he found a red kite.\n" * 4
    (project / "story.txt").write_text(text, encoding="utf-8", newline="")
    given = {"prompt": "Summarize in one sentence.", "files": ["story.txt"], "model": "starter", "max_tokens": 20}
    async with client_of(home.environ, project) as client:
        result = await client.call_tool("generate_text", given)
        await status(client)
        total = SavingsStore(savings_path(home.places)).total()
        assert result.meta
        prompt_tokens = result.meta["gemma-mcp"]["usage"]["prompt_tokens"]
        empty = await client.call_tool("generate_text", given | {"files": []})
        assert empty.meta
        around = empty.meta["gemma-mcp"]["usage"]["prompt_tokens"]
    wrapper = 40  # tokens of `<file path="story.txt">` and its end, at most
    assert 0 < total.file_tokens <= prompt_tokens - around <= total.file_tokens + wrapper
    async with home.pool() as pool:
        counts = (await pool.count_tokens("starter", [text, *texts(result)])).counts
    assert total.file_tokens == counts[0]
    assert total.result_tokens == sum(counts[1:])


async def test_two_servers_at_once_add_to_one_total(home: EngineHome, project: Path) -> None:
    (project / "a.txt").write_text("a" * 1000, encoding="utf-8")
    async with client_of(home.environ, project) as one, client_of(home.environ, project) as other:
        for client in (one, other, one):
            await client.call_tool("generate_text", {"prompt": "!repeat 1 x", "files": ["a.txt"]})
        documents = [await status(client) for client in (one, other)]
    total = SavingsStore(savings_path(home.places)).total()
    assert (total.sessions, total.calls, total.file_tokens) == (2, 3, 2000)
    assert all("| 2,000 " in document for document in documents)


async def test_reading_starts_no_engine_and_writes_nothing(home: EngineHome, project: Path) -> None:
    async with client_of(home.environ, project) as client:
        assert "Not running" in await status(client)
        await client.read_resource("gemma://models")
        await client.get_prompt("commit_message")
    assert home.processes() == []
    assert not savings_path(home.places).exists()
