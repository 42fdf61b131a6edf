"""Fixtures of the conformance suite: tools, resources and prompts. Their names and texts are those that it expects."""

import base64
import json
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.types import (
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    PromptReference,
    ResourceTemplateReference,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

__all__ = ["add_contents"]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SILENCE = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=="
SHORT = 0.05
"""Seconds that the suite wants between two notifications."""


def add_contents(server: MCPServer) -> None:
    """Register them."""
    for tool in (
        test_simple_text,
        test_image_content,
        test_audio_content,
        test_embedded_resource,
        test_multiple_content_types,
        test_tool_with_logging,
        test_logging_tool,
        test_tool_with_progress,
        test_error_handling,
        test_reconnection,
        test_x_mcp_header,
        test_trigger_tool_change,
        test_trigger_prompt_change,
        json_schema_2020_12_tool,
    ):
        server.add_tool(
            tool, description=f"A fixture of the conformance suite: {tool.__name__}", structured_output=False
        )
    listed = server._tool_manager.get_tool("json_schema_2020_12_tool")  # pyright: ignore[reportPrivateUsage]
    assert listed is not None
    listed.parameters = SCHEMA_2020_12
    _add_resources(server)
    _add_prompts(server)
    _add_completion(server)
    _add_older_requests(server)


# -- tools -------------------------------------------------------------------------------------------------------------


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _image() -> ImageContent:
    return ImageContent(type="image", data=PIXEL, mime_type="image/png")


def _embedded(uri: str, kind: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=text))


async def test_simple_text() -> str:
    return "This is a simple text response for testing."


async def test_image_content() -> ImageContent:
    return _image()


async def test_audio_content() -> AudioContent:
    return AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")


async def test_embedded_resource() -> EmbeddedResource:
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


async def test_multiple_content_types() -> list[ContentBlock]:
    mixed = _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [_text("Multiple content types test:"), _image(), mixed]


async def test_tool_with_logging(ctx: Context) -> str:
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(message)  # pyright: ignore[reportDeprecated]
        await anyio.sleep(SHORT)
    return "done"


async def test_logging_tool(ctx: Context) -> str:
    """The same by another name: what a request that names no level must not get."""
    return await test_tool_with_logging(ctx)


async def test_tool_with_progress(ctx: Context) -> str:
    for progress in (0, 50, 100):
        await ctx.report_progress(progress, 100)
        await anyio.sleep(SHORT)
    return "done"


async def test_error_handling() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


async def test_reconnection(ctx: Context) -> str:
    """The stream is closed; the answer waits for the client in the event store."""
    await ctx.close_sse_stream()
    await anyio.sleep(2 * SHORT)
    return "done"


async def test_x_mcp_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    return region


async def test_trigger_tool_change(ctx: Context) -> str:
    await ctx.notify_tools_changed()
    return "done"


async def test_trigger_prompt_change(ctx: Context) -> str:
    await ctx.notify_prompts_changed()
    return "done"


async def json_schema_2020_12_tool(name: str = "") -> str:
    return name


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


# -- resources, prompts, completion ------------------------------------------------------------------------------------


def _add_resources(server: MCPServer) -> None:
    @server.resource("test://static-text", description="Text", mime_type="text/plain")
    async def static_text() -> str:  # pyright: ignore[reportUnusedFunction]
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", description="An image", mime_type="image/png")
    async def static_binary() -> bytes:  # pyright: ignore[reportUnusedFunction]
        return base64.b64decode(PIXEL)

    @server.resource("test://watched-resource", description="Something to subscribe to", mime_type="text/plain")
    async def watched() -> str:  # pyright: ignore[reportUnusedFunction]
        return "It does not change."

    @server.resource("test://template/{id}/data", description="A template", mime_type="application/json")
    async def template(id: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(server: MCPServer) -> None:
    @server.prompt(description="No arguments")
    async def test_simple_prompt() -> list[Message]:  # pyright: ignore[reportUnusedFunction]
        return [UserMessage(_text("This is a simple prompt for testing."))]

    @server.prompt(description="Two arguments")
    async def test_prompt_with_arguments(arg1: str, arg2: str) -> list[Message]:  # pyright: ignore[reportUnusedFunction]
        return [UserMessage(_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]

    @server.prompt(description="A resource in it")
    async def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803 # pyright: ignore[reportUnusedFunction]
        resource = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(resource), UserMessage(_text("Please process the embedded resource above."))]

    @server.prompt(description="An image in it")
    async def test_prompt_with_image() -> list[Message]:  # pyright: ignore[reportUnusedFunction]
        return [UserMessage(_image()), UserMessage(_text("Please analyze the image above."))]


def _add_completion(server: MCPServer) -> None:
    @server.completion()
    async def complete(  # pyright: ignore[reportUnusedFunction]
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        return Completion(values=[word for word in ("paris", "park") if word.startswith(argument.value)])


def _add_older_requests(server: MCPServer) -> None:
    """What the revisions before 2026-07-28 may ask besides."""

    async def accept(ctx: ServerRequestContext[Any, Any], params: Any) -> EmptyResult:
        return EmptyResult()

    lowlevel = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)
