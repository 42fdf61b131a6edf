import json
from pathlib import Path

import pytest
from scripted_engine import Connect, ScriptedEngines, chunk, error_of, finished, said, texts

from gemma_mcp.errors import ContextOverflowError, InvalidReplyError, QueueFullError, UnknownModelError
from gemma_mcp.wire import ChatCompletionRequest


async def test_the_first_block_is_the_answer_and_the_second_says_where_it_came_from(
    connect: Connect, engines: ScriptedEngines
) -> None:
    engines.play([said("one\n"), said("  two"), finished(notice="A toy;\nget a real one.")])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "Count."})
    answer, line = texts(result)
    assert answer == "one\n  two"
    assert line.startswith("[scripted · CPU · stop · 1,200 prompt (1,000 cached) + 7 completion tokens · ")
    assert line.endswith(" s · A toy; get a real one.]")
    assert not result.is_error
    assert result.structured_content is None


async def test_usage_and_timings_travel_where_models_do_not_look(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
    assert result.meta is not None
    details = result.meta["gemma-mcp"]
    assert details["usage"]["prompt_tokens_details"]["cached_tokens"] == 1000
    assert details["timings"]["predicted_n"] == 7
    assert details["finish_reason"] == "stop"


async def test_every_option_reaches_the_engine(connect: Connect, engines: ScriptedEngines) -> None:
    given = {
        "prompt": "Go",
        "system": "Be brief.",
        "max_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "stop": ["END"],
        "seed": 4,
        "model": "other",
        "max_seconds": 12,
    }
    async with connect() as client:
        await client.call_tool("generate_text", given)
    (request,) = engines.requests
    assert isinstance(request, ChatCompletionRequest)
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "Go"),
    ]
    assert (request.max_tokens, request.temperature, request.top_p, request.top_k) == (9, 0.0, 0.5, 3)
    assert (request.min_p, request.stop, request.seed, request.model) == (0.1, ("END",), 4, "other")
    assert request.deadline_seconds is not None
    assert 0 < request.deadline_seconds <= 12
    assert request.return_progress


async def test_what_is_left_out_is_left_to_the_model_and_the_configuration(
    connect: Connect, engines: ScriptedEngines
) -> None:
    async with connect(max_tokens=77) as client:
        await client.call_tool("generate_text", {"prompt": "x", "temperature": None})
    (request,) = engines.requests
    assert request.model == "starter"
    assert request.max_tokens == 77
    assert request.temperature is None
    assert request.response_format is None


async def test_files_stand_before_the_prompt_in_blocks_that_name_them(
    connect: Connect, engines: ScriptedEngines, project: Path
) -> None:
    (project / "notes").mkdir()
    (project / "notes" / "a.txt").write_text("first\nsecond", encoding="utf-8")
    (project / "b.py").write_text("1\n2\n3\n4\n", encoding="utf-8")
    async with connect() as client:
        await client.call_tool("generate_text", {"prompt": "Sum up.", "files": ["notes/a.txt", "b.py:2-3"]})
    assert engines.prompt == (
        '<file path="notes/a.txt">\nfirst\nsecond\n</file>\n<file path="b.py" lines="2-3">\n2\n3\n</file>\n\nSum up.'
    )


async def test_lines_beyond_the_end_of_a_file_are_named_in_the_result(connect: Connect, project: Path) -> None:
    (project / "b.py").write_text("1\n2\n3\n", encoding="utf-8")
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "files": ["b.py:2-80"]})
    assert "b.py ends at line 3" in texts(result)[1]


@pytest.mark.parametrize("as_text", [True, False])
async def test_a_schema_reaches_the_engine_as_object_or_as_text(
    connect: Connect, engines: ScriptedEngines, as_text: bool
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with connect() as client:
        given = json.dumps(schema) if as_text else schema
        await client.call_tool("generate_text", {"prompt": "x", "json_schema": given})
    form = engines.requests[0].response_format
    assert form is not None
    assert form.json_schema is not None
    assert form.type == "json_schema"
    assert form.json_schema.schema_ == schema


@pytest.mark.parametrize(
    ("schema", "said_of_it"),
    [("{", "not valid JSON"), ("[" * 100_000, "not valid JSON"), ("[1]", "not a JSON object")],
)
async def test_a_schema_that_is_none_is_refused(connect: Connect, schema: str, said_of_it: str) -> None:
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "json_schema": schema})
    assert said_of_it in error_of(result)


async def test_a_schema_that_is_nested_too_deep_is_refused(connect: Connect) -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(70):
        schema = {"anyOf": [schema]}
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "json_schema": schema})
        assert "nested deeper than 64 levels" in error_of(result)
        assert not (await client.call_tool("generate_text", {"prompt": "x"})).is_error


async def test_a_reply_that_does_not_satisfy_its_schema_is_an_error(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said('{"n": "x"}'), InvalidReplyError("The reply is not what the schema asks for.", "Try again.")])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "json_schema": {}})
    assert error_of(result) == "The reply is not what the schema asks for. Try again."


@pytest.mark.parametrize(
    "error", [UnknownModelError("gone", ["starter"]), QueueFullError(64), ContextOverflowError(900, 1024, 800)]
)
async def test_an_engines_error_is_told_in_its_own_words(
    connect: Connect, engines: ScriptedEngines, error: Exception
) -> None:
    engines.play([error])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
    assert error_of(result) == str(error)


async def test_an_unexpected_error_is_private_and_logged(
    connect: Connect, engines: ScriptedEngines, caplog: pytest.LogCaptureFixture
) -> None:
    engines.play([ValueError("the secret")], [said("fine"), finished()])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
        assert "secret" not in error_of(result)
        assert "the secret" in caplog.text
        assert not (await client.call_tool("generate_text", {"prompt": "x"})).is_error


async def test_a_reply_that_nobody_sized_shrinks_to_the_room_in_the_context(
    connect: Connect, engines: ScriptedEngines
) -> None:
    engines.play([ContextOverflowError(1900, 1024, 2048)], [said("short"), finished("length")])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
    assert [request.max_tokens for request in engines.requests] == [1024, 148]
    answer, line = texts(result)
    assert answer == "short"
    assert "length (cut off at max_tokens)" in line
    assert "room for 148 tokens" in line


async def test_a_size_that_was_asked_for_is_not_changed(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([ContextOverflowError(1900, 1024, 2048)])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x", "max_tokens": 1024})
    assert "2048" in error_of(result)
    assert len(engines.requests) == 1


async def test_a_stream_that_breaks_off_is_an_error(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said("half of")])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
    assert "ended in the middle" in error_of(result)


async def test_a_reply_without_counts_has_a_line_without_them(connect: Connect, engines: ScriptedEngines) -> None:
    engines.play([said("x"), chunk(choices=[{"finish_reason": "stop"}], gemma={"model": "remote"})])
    async with connect() as client:
        result = await client.call_tool("generate_text", {"prompt": "x"})
    assert texts(result)[1].startswith("[remote · stop · ")
    assert result.meta is not None
    assert "usage" not in result.meta["gemma-mcp"]
