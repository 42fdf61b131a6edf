"""A client built on the SDK's first generation. It runs in that SDK's own environment and prints what it met, as JSON.

`sdk1_client.py ENTRY PROJECT`: ENTRY is the JSON of a server's entry in a client's list: a command, or a url.
What the server says is kept as the wire has it, so that the tests need not know this SDK's types.
"""
# The types here are those of another version of the SDK than the checker sees.
# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.exceptions import McpError
from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification, PromptReference
from pydantic import BaseModel

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def wire(told: BaseModel) -> dict[str, Any]:
    return told.model_dump(mode="json", by_alias=True, exclude_none=True)


@contextlib.asynccontextmanager
async def connected(entry: dict[str, Any], project: str) -> AsyncGenerator[ClientSession]:
    if "url" in entry:
        transport = streamablehttp_client(entry["url"], headers=entry.get("headers"))
    else:
        command, *arguments = entry["command"], *entry["args"]
        transport = stdio_client(StdioServerParameters(command=command, args=arguments, env=entry["env"], cwd=project))
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        yield session


class Visit:
    """One conversation with a server."""

    def __init__(self, session: ClientSession, project: Path) -> None:
        self._session = session
        self._project = project
        self._progress: list[str] = []

    async def report(self) -> dict[str, Any]:
        told = await self._session.initialize()
        await self._session.send_ping()
        tools = wire(await self._session.list_tools())["tools"]
        return {
            "hello": wire(told),
            "tools": [tool["name"] for tool in tools],
            "answers": await self._answers(),
            "refused": await self._call("generate_text", prompt="x", modell="y"),
            "unknown": await self._call("generate_txt", prompt="x"),
            "timeout": await self._run_out_of_time(),
            "after": await self._call("generate_text", prompt="after the timeout"),
            "progress": self._progress,
            **await self._lists(wire(told)["capabilities"]),
        }

    async def _answers(self) -> dict[str, Any]:
        return {
            "generate_text": await self._call("generate_text", prompt="Say it.", files=["a.txt"]),
            "complete_code": await self._call("complete_code", prefix="x = ", suffix="\n"),
            "analyze_image": await self._call("analyze_image", images=[DOT], question="What is it?"),
            "chat": await self._call("chat", message="hello"),
        }

    async def _call(self, tool: str, seconds: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """The tool's result, or the protocol's error."""
        try:
            limit = timedelta(seconds=seconds)
            return wire(await self._session.call_tool(tool, arguments, limit, self._note))
        except McpError as error:
            return wire(error.error)

    async def _run_out_of_time(self) -> dict[str, Any]:
        """A call that never ends by itself. Nothing else could be computed before it has been cancelled.

        This SDK gives up on a request without telling the server, so its users do; only the SDK knows the request's id.
        """
        identity = self._session._request_id
        endless = {"prompt": f"!hold {self._project / 'never'} x", "max_seconds": 3600}
        error = await self._call("generate_text", seconds=2.0, **endless)
        params = CancelledNotificationParams(requestId=identity, reason="out of time")
        await self._session.send_notification(ClientNotification(CancelledNotification(params=params)))
        return error

    async def _note(self, progress: float, total: float | None, message: str | None) -> None:
        self._progress.append(message or "")

    async def _lists(self, capabilities: dict[str, Any]) -> dict[str, Any]:
        """What the server says that it has besides tools."""
        lists: dict[str, Any] = {}
        if "prompts" in capabilities:
            lists["prompts"] = wire(await self._session.list_prompts())["prompts"]
            lists["completions"] = [
                await self._complete(prompt["name"], argument["name"])
                for prompt in lists["prompts"]
                for argument in prompt.get("arguments", [])
                if "completions" in capabilities
            ]
        if "resources" in capabilities:
            lists["resources"] = wire(await self._session.list_resources())["resources"]
            lists["templates"] = wire(await self._session.list_resource_templates())["resourceTemplates"]
            lists["read"] = [wire(await self._session.read_resource(one["uri"])) for one in lists["resources"]]
        return lists

    async def _complete(self, prompt: str, argument: str) -> dict[str, Any]:
        reference = PromptReference(type="ref/prompt", name=prompt)
        return wire(await self._session.complete(reference, {"name": argument, "value": ""}))


async def main() -> None:
    entry, project = json.loads(sys.argv[1]), sys.argv[2]
    async with connected(entry, project) as session:
        print(json.dumps(await Visit(session, Path(project)).report()))


asyncio.run(main())
