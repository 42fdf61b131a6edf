"""What clients expect of any server, asked of the real one's listings."""

from pathlib import Path

import pytest
from mcp import Client
from scripted_engine import Connect, ScriptedEngines, home_of, settings

from gemma_mcp.server.app import INSTRUCTIONS, build_server

LONGEST = 2000
"""Characters of a description; clients cut what is longer at 2,048 or 4,096."""

ERAS = ["2026-07-28", "legacy"]


@pytest.mark.parametrize("era", ERAS)
async def test_nothing_is_so_long_that_a_client_cuts_it(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        tools = (await client.list_tools()).tools
    assert len(INSTRUCTIONS) < LONGEST
    for tool in tools:
        assert 0 < len(tool.description or "") < LONGEST
        for name, argument in tool.input_schema["properties"].items():
            assert 0 < len(argument["description"]) < LONGEST, (tool.name, name)


async def test_every_listing_has_the_same_order(engines: ScriptedEngines, tmp_path: Path) -> None:
    listings: list[list[str]] = []
    for _ in range(3):
        async with Client(build_server(engines, settings(), tmp_path, home_of(tmp_path))) as client:
            listings.append([tool.model_dump_json() for tool in (await client.list_tools()).tools])
    assert listings[0] == listings[1] == listings[2]


async def test_what_does_not_change_may_be_kept_for_a_while(connect: Connect) -> None:
    async with connect("2026-07-28") as client:
        tools = await client.list_tools()
        prompts = await client.list_prompts()
    for result in (tools, prompts):
        assert result.ttl_ms == 300_000
        assert result.cache_scope == "private"


async def test_results_do_not_drag_an_icon_along(connect: Connect) -> None:
    """Each result of the newer protocol repeats who the server is."""
    async with connect("2026-07-28") as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
    assert "data:" not in result.model_dump_json()


async def test_tools_say_that_they_only_read_and_how_long_a_result_may_be(connect: Connect) -> None:
    async with connect("legacy") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name != "map_files")
        assert not tool.annotations.destructive_hint
        assert not tool.annotations.open_world_hint
        assert tool.output_schema is None  # structured content would hide the text from the client's model
    for name in ("generate_text", "chat"):
        assert (tools[name].meta or {})["anthropic/maxResultSizeChars"] == 200_000
