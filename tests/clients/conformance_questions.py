"""Fixtures of the conformance suite: what asks the client something, in the old way and in the new one, and tasks."""

import json
from collections.abc import Mapping
from typing import Any, cast

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
)

from gemma_mcp.server.tasks import current_task

__all__ = ["REQUIRED_TASKS", "add_questions"]

REQUIRED_TASKS = frozenset({"failing_job", "test_tool_with_task"})
"""Tools that run as tasks or not at all."""

LASTING = 0.5
"""Seconds that make a task of a call."""


def add_questions(server: MCPServer) -> None:
    """Register them."""
    for tool in (
        test_sampling,
        test_elicitation,
        test_elicitation_sep1034_defaults,
        test_elicitation_sep1330_enums,
        test_missing_capability,
        test_streaming_elicitation,
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_tampered_state,
        test_input_required_result_capabilities,
        greet,
        slow_compute,
        failing_job,
        protocol_error_job,
        confirm_delete,
        multi_input,
        test_tool_with_task,
    ):
        server.add_tool(
            tool, description=f"A fixture of the conformance suite: {tool.__name__}", structured_output=False
        )
    server.prompt(description="Asks first")(test_input_required_result_prompt)


# -- the old way: the server sends a request of its own ----------------------------------------------------------------


async def test_sampling(ctx: Context, prompt: str) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    told = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
        [message], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {told.content}"


async def test_elicitation(ctx: Context, message: str) -> str:
    return await _elicit(ctx, message, _form({"username": {"type": "string"}, "email": {"type": "string"}}))


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _elicit(ctx, "Who are you?", {"type": "object", "properties": fields})


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    plain = {"type": "string", "enum": ["option1", "option2", "option3"]}
    titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    fields = {
        "untitledSingle": plain,
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": plain},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await _elicit(ctx, "Which ones?", {"type": "object", "properties": fields})


async def _elicit(ctx: Context, message: str, schema: dict[str, Any]) -> str:
    told = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"Elicitation completed: action={told.action}, content={json.dumps(told.content)}"


# -- the new way: the result says what is wanted, and the client calls again -------------------------------------------


def _form(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(fields)}


def _question(message: str, **fields: str) -> dict[str, Any]:
    schema = _form({name: {"type": kind} for name, kind in fields.items()})
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def _sampling(text: str, tokens: int = 100) -> dict[str, Any]:
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": tokens}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}


def _wanted(state: str | None = None, /, **requests: dict[str, Any]) -> InputRequiredResult:
    told: dict[str, Any] = {"inputRequests": requests}
    return InputRequiredResult.model_validate(told | ({"requestState": state} if state else {}))


def _given(ctx: Context, key: str) -> dict[str, Any] | None:
    """The client's answer to a question; None if it gave none, or none that is of use."""
    answer = (ctx.input_responses or {}).get(key)
    return None if answer is None else answer.model_dump(by_alias=True, mode="json")


def _content(ctx: Context, key: str, field: str) -> object:
    answer = _given(ctx, key) or {}
    content = answer.get("content")
    return cast("dict[str, object]", content).get(field) if isinstance(content, dict) else None


def _said(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)])


async def test_missing_capability(ctx: Context) -> CallToolResult:
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        missing: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs sampling.", missing)
    return _said("done")


async def test_streaming_elicitation(ctx: Context) -> InputRequiredResult:
    """On a stream that has begun the question comes as the result, too."""
    await ctx.report_progress(1, 2)
    return _wanted(user_name=_question("What is your name?", name="string"))


async def test_input_required_result_elicitation(ctx: Context) -> CallToolResult | InputRequiredResult:
    name = _content(ctx, "user_name", "name")
    if not isinstance(name, str):
        return _wanted(user_name=_question("What is your name?", name="string"))
    return _said(f"Hello, {name}!")


async def test_input_required_result_sampling(ctx: Context) -> CallToolResult | InputRequiredResult:
    answer = _given(ctx, "capital_question")
    if answer is None:
        return _wanted(capital_question=_sampling("What is the capital of France?"))
    return _said(json.dumps(answer["content"]))


async def test_input_required_result_list_roots(ctx: Context) -> CallToolResult | InputRequiredResult:
    answer = _given(ctx, "client_roots")
    return _wanted(client_roots=ROOTS) if answer is None else _said(json.dumps(answer["roots"]))


async def test_input_required_result_request_state(ctx: Context) -> CallToolResult | InputRequiredResult:
    if ctx.request_state is None:
        return _wanted("asked", confirm=_question("Please confirm", ok="boolean"))
    return _said("state-ok" if ctx.request_state == "asked" else "another state")


async def test_input_required_result_multiple_inputs(ctx: Context) -> CallToolResult | InputRequiredResult:
    questions = {
        "user_name": _question("What is your name?", name="string"),
        "greeting": _sampling("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = {key: _given(ctx, key) for key in questions}
    return _wanted("asked", **questions) if None in answers.values() else _said(json.dumps(answers))


async def test_input_required_result_multi_round(ctx: Context) -> CallToolResult | InputRequiredResult:
    if ctx.request_state is None:
        return _wanted("1", step1=_question("Step 1: What is your name?", name="string"))
    if ctx.request_state == "1":
        return _wanted("2", step2=_question("Step 2: What is your favorite color?", color="string"))
    return _said(f"You like {_content(ctx, 'step2', 'color')}.")


async def test_input_required_result_tampered_state(ctx: Context) -> CallToolResult | InputRequiredResult:
    if ctx.request_state is None:
        return _wanted("sealed by the SDK", confirm=_question("Please confirm", ok="boolean"))
    return _said("It was not tampered with.")


async def test_input_required_result_capabilities(ctx: Context) -> CallToolResult | InputRequiredResult:
    declared = ctx.client_capabilities
    wanted: dict[str, dict[str, Any]] = {}
    if declared is not None and declared.sampling is not None:
        wanted["by_sampling"] = _sampling("Say something")
    if declared is not None and declared.elicitation is not None:
        wanted["by_form"] = _question("Say something", text="string")
    return _wanted(None, **wanted) if wanted else _said("There is nobody to ask.")


async def test_input_required_result_prompt(ctx: Context) -> list[Message] | InputRequiredResult:
    context = _content(ctx, "user_context", "context")
    if context is None:
        return _wanted(user_context=_question("What context should the prompt use?", context="string"))
    return [UserMessage(TextContent(type="text", text=f"Use this: {context}"))]


# -- tasks -------------------------------------------------------------------------------------------------------------


async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def slow_compute(seconds: float, label: str = "") -> str:
    await anyio.sleep(seconds)
    return f"done {label}"


async def failing_job() -> str:
    await anyio.sleep(LASTING)
    raise ToolError("it failed")


async def protocol_error_job() -> str:
    await anyio.sleep(LASTING)
    raise MCPError(INTERNAL_ERROR, "boom")


async def confirm_delete(filename: str = "x") -> str:
    return await _ask(_question(f"Delete {filename}?", confirm="boolean"))


async def multi_input() -> str:
    return await _ask(_question("One?", confirm="boolean"), _question("Two?", confirm="boolean"))


async def _ask(*questions: dict[str, Any]) -> str:
    task = current_task.get()
    return f"answers: {await task.ask(*questions)}" if task else "This is no task."


async def test_tool_with_task(ctx: Context) -> CallToolResult | InputRequiredResult:
    name = _content(ctx, "user_name", "name")
    if not isinstance(name, str):
        return _wanted("asked", user_name=_question("Who are you?", name="string"))
    await anyio.sleep(LASTING)
    return _said(f"Hello, {name}!")
