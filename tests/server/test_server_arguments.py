from typing import Any

import pytest
from mcp import MCPError
from mcp.types import INVALID_PARAMS
from scripted_engine import Connect, ScriptedEngines, error_of, texts

ERAS = ["2026-07-28", "legacy"]
SIGNATURES = {
    "generate_text": "prompt system files overflow max_tokens temperature top_p top_k min_p stop seed json_schema "
    "samples choose model max_seconds",
    "complete_code": "prefix suffix file line column language max_tokens model max_seconds",
    "analyze_image": "images question detail json_schema model max_tokens max_seconds",
    "chat": "message session fork system files images model max_tokens max_seconds",
    "map_files": "instruction files per chunk_tokens json_schema max_tokens temperature seed model max_seconds",
}
TOOLS = list(SIGNATURES)


@pytest.mark.parametrize("era", ERAS)
async def test_five_tools_are_offered_with_everything_a_client_asks_of_them(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == TOOLS
    for tool in tools:
        assert tool.title
        assert tool.description is not None
        assert len(tool.description) < 2000
        assert "Use it" in tool.description
        assert "Do not use it" in tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name != "map_files")
        assert tool.annotations.open_world_hint is False
        assert tool.output_schema is None
        assert tool.input_schema["additionalProperties"] is False
        assert all(value.get("description") for value in tool.input_schema["properties"].values())


async def test_instructions_name_every_tool_and_are_short(connect: Connect) -> None:
    async with connect("legacy") as client:
        instructions = client.instructions
    assert instructions is not None
    assert len(instructions) < 2000
    assert all(name in instructions for name in TOOLS)


async def test_signatures_are_the_published_ones(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
    assert {name: " ".join(schema["properties"]) for name, schema in tools.items()} == SIGNATURES
    assert [tools[name].get("required") for name in TOOLS] == [
        ["prompt"],
        None,
        ["images"],
        ["message"],
        ["instruction", "files"],
    ]
    assert tools["generate_text"]["properties"]["max_tokens"]["minimum"] == 1
    assert tools["analyze_image"]["properties"]["detail"]["enum"] == ["low", "auto", "high"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "`prompt` is missing."),
        ({"prompt": None}, "`prompt` is missing."),
        ({"prompt": ""}, "`prompt` is empty."),
        ({"prompt": " \n\t"}, "`prompt` is empty."),
        ({"prompt": 5}, "`prompt` must be text, not 5."),
        ({"prompt": ["a"]}, "`prompt` must be text, not a list."),
        ({"prompt": {"a": 1}}, "`prompt` must be text, not an object."),
        ({"prompt": "x", "max_tokens": "5"}, "`max_tokens` must be a whole number, not the text '5'."),
        ({"prompt": "x", "max_tokens": 1.5}, "`max_tokens` must be a whole number, not 1.5."),
        ({"prompt": "x", "max_tokens": True}, "`max_tokens` must be a whole number, not true."),
        ({"prompt": "x", "max_tokens": 0}, "`max_tokens` must be at least 1, not 0."),
        ({"prompt": "x", "max_tokens": -7}, "`max_tokens` must be at least 1, not -7."),
        ({"prompt": "x", "max_tokens": 10**9}, "`max_tokens` must be at most 1,000,000, not 1000000000."),
        ({"prompt": "x", "seed": 10**90}, "`seed` must be at most 4,294,967,295, not a number of more than 30 digits."),
        ({"prompt": "x", "temperature": -0.1}, "`temperature` must be at least 0, not -0.1."),
        ({"prompt": "x", "temperature": 1e308}, "`temperature` must be at most 2, not 1e+308."),
        ({"prompt": "x", "top_p": 0}, "`top_p` must be more than 0, not 0."),
        ({"prompt": "x", "top_k": -1}, "`top_k` must be at least 0, not -1."),
        ({"prompt": "x", "max_seconds": 0}, "`max_seconds` must be more than 0, not 0."),
        ({"prompt": "x", "max_seconds": "soon"}, "`max_seconds` must be a number, not the text 'soon'."),
        ({"prompt": "x", "files": "a.txt"}, "`files` must be a list of texts, not the text 'a.txt'."),
        ({"prompt": "x", "files": [1]}, "An item of `files` must be text, not 1."),
        ({"prompt": "x", "stop": [""]}, "An item of `stop` is empty."),
        ({"prompt": "x", "stop": ["a"] * 17}, "`stop` is too long: at most 16."),
        ({"prompt": "x", "stop": "[1, "}, "`stop` must be a list of texts, not the text '[1, '."),
        ({"prompt": "x", "json_schema": 5}, "`json_schema` must be an object or JSON text, not 5."),
        ({"prompt": "x", "model": ""}, "`model` is empty."),
        ({"prompt": "a\0b"}, "`prompt` holds a NUL character (at position 1). Send text without it."),
        (
            {"prompt": "a\ud800"},
            "`prompt` holds half of a surrogate pair (U+D800 at position 1), which is no text. Send valid Unicode.",
        ),
        ({"prompt": "x", "stop": ["\0"]}, "`stop` holds a NUL character (at position 0). Send text without it."),
        (
            {"prompt": "x", "json_schema": {"a\0": 1}},
            "`json_schema` holds a NUL character (at position 1). Send text without it.",
        ),
    ],
)
async def test_what_does_not_fit_is_refused_in_one_sentence(
    connect: Connect, engines: ScriptedEngines, era: str, arguments: dict[str, Any], sentence: str
) -> None:
    async with connect(era) as client:
        assert error_of(await client.call_tool("generate_text", arguments)) == sentence
        assert not engines.requests
        assert not (await client.call_tool("generate_text", {"prompt": "still there"})).is_error


@pytest.mark.parametrize(
    ("tool", "arguments", "hint"),
    [
        ("generate_text", {"prompt": "x", "max_token": 5}, "`max_token` (did you mean `max_tokens`?)"),
        ("chat", {"message": "x", "sesion": "y"}, "`sesion` (did you mean `session`?)"),
        ("analyze_image", {"images": ["x"], "image": "y"}, "`image` (did you mean `images`?)"),
        ("complete_code", {"prefix": "x", "zebra": 1}, "`zebra`. Accepted: prefix, suffix, file, line,"),
    ],
)
async def test_an_unknown_argument_is_refused_with_a_suggestion(
    connect: Connect, engines: ScriptedEngines, tool: str, arguments: dict[str, Any], hint: str
) -> None:
    async with connect() as client:
        text = error_of(await client.call_tool(tool, arguments))
    assert text.startswith("Unknown argument ")
    assert hint in text
    assert not engines.requests


async def test_several_faults_are_told_at_once(connect: Connect) -> None:
    async with connect() as client:
        text = error_of(await client.call_tool("generate_text", {"max_tokens": -1, "top_p": 2, "seed": -1, "min_p": 5}))
    assert (
        text == ("`prompt` is missing. `max_tokens` must be at least 1, not -1. `top_p` must be at most 1, not 2.")
        or text.count("must be") == 3
    )


async def test_a_list_may_come_as_json_text(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "[1]", "stop": '["a", "b"]'})
    assert engines.requests[0].stop == ("a", "b")
    assert engines.prompt == "[1]"


@pytest.mark.parametrize("detail", ["huge", 1])
async def test_a_detail_that_does_not_exist_is_refused_with_those_that_do(connect: Connect, detail: object) -> None:
    async with connect() as client:
        text = error_of(await client.call_tool("analyze_image", {"images": ["a.png"], "detail": detail}))
    assert "'low', 'auto' or 'high'" in text


@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_tool_is_a_protocol_error(connect: Connect, era: str) -> None:
    async with connect(era) as client:
        with pytest.raises(MCPError, match="Did you mean generate_text") as caught:
            await client.call_tool("generate_txt", {})
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("zebra", {})
    assert caught.value.code == INVALID_PARAMS


async def test_a_prompt_of_ten_megabytes_is_refused(connect: Connect, engines: ScriptedEngines) -> None:
    async with connect() as client:
        text = error_of(await client.call_tool("generate_text", {"prompt": "ü" * 5_000_000}))
        assert text.startswith("prompt: it has 10,000,000 bytes with everything in it, more than the 4,000,000")
        assert not engines.requests
        result = await client.call_tool("complete_code", {"prefix": "x" * 3_000_000, "suffix": "y" * 3_000_000})
        assert "6,000,000 bytes" in error_of(result)
        assert texts(await client.call_tool("generate_text", {"prompt": "x" * 4_000_000}))[0] == "fine"
