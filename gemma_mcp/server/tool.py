"""A tool as this server offers it: strict arguments, own schema, and the one place where errors become results."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from gemma_mcp.errors import GemmaError, RequestError
from gemma_mcp.server.arguments import Arguments, parse_arguments, published_schema
from gemma_mcp.server.ledger import Outcome
from gemma_mcp.server.results import outcome_of

__all__ = ["ADDS_FILES", "KEEPS_RESULTS", "READS_ONLY", "REFUSED_KEY", "REPLACES_FILES", "GemmaTool"]

Body = Callable[[Context, Any], Awaitable[CallToolResult]]

Note = Callable[[Outcome], None]

REFUSED_KEY = "gemma-mcp/refused"
"""In a request's `_meta`: why its arguments could not be read (see `lines.py`)."""

READS_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
"""Of tools that read files at most. Claude Code runs calls of such tools at the same time.

`chat` is among them although it keeps its sessions: the hint means that a tool does not modify its environment, and
the store is the server's own memory, which no other tool, no file of the project and nobody else depends on. Calls of
one session take turns by themselves, so they may run at the same time.
"""

ADDS_FILES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
REPLACES_FILES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
"""Of a tool that the configuration lets write. The hints say what it can do, not what most calls of it do."""

KEEPS_RESULTS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
"""Of `map_files`: it adds a file that others are to read, which the store of `chat` is not, and the same call again
goes on with it, or finds all done.
"""


class GemmaTool(Tool):
    """The SDK's tool, except that it takes its arguments apart itself.

    The SDK drops unknown arguments and quotes pydantic's report of wrong ones; this refuses both in a sentence.
    """

    arguments_model: type[Arguments] = Field(exclude=True)
    body: Body = Field(exclude=True)
    note: Note | None = Field(default=None, exclude=True)
    """Told what every call brought, errors included."""

    @classmethod
    def make(
        cls,
        name: str,
        title: str,
        description: str,
        arguments: type[Arguments],
        body: Body,
        max_result: int | None = None,
        annotations: ToolAnnotations = READS_ONLY,
    ) -> "GemmaTool":
        """`max_result`: characters of a result that Claude Code may show without moving it to a file."""
        return cls(
            fn=body,
            name=name,
            title=title,
            description=description,
            parameters=published_schema(arguments),
            fn_metadata=FuncMetadata(arg_model=ArgModelBase),
            is_async=True,
            context_kwarg=None,
            annotations=annotations,
            meta={"anthropic/maxResultSizeChars": max_result} if max_result else None,
            arguments_model=arguments,
            body=body,
        )

    @property
    def told(self) -> str:
        """What a client's model is told of the tool, about as it stands in its context."""
        about = {"name": self.name, "description": self.description, "input_schema": self.parameters}
        return json.dumps(about, ensure_ascii=False)

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> CallToolResult:
        """Answer a call. Raises ToolError for everything that the caller may know, with the text it is told."""
        try:
            result = await self._answer(arguments, context)
        except ToolError as error:
            self._noted(Outcome((str(error),)))
            raise
        self._noted(outcome_of(result))
        return result

    async def _answer(self, arguments: dict[str, Any], context: Context[Any, Any]) -> CallToolResult:
        try:
            _refuse_unreadable(context)
            return await self.body(context, parse_arguments(self.arguments_model, arguments))
        except GemmaError as error:
            raise ToolError(str(error)) from error
        except (MCPError, ToolError):
            raise
        except Exception as error:
            raise UnexpectedToolError(f"{self.name} failed inside. The server's log (stderr) says why.") from error

    def _noted(self, outcome: Outcome) -> None:
        if self.note is not None:
            self.note(outcome)


def _refuse_unreadable(context: Context[Any, Any]) -> None:
    meta: Mapping[str, Any] = context.request_context.meta or {}
    if why := meta.get(REFUSED_KEY):
        raise RequestError(str(why))
