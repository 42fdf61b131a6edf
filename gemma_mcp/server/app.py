"""Puts the server together: four tools on a pool of engines, and the store of sessions."""

import difflib
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS

from gemma_mcp import __version__
from gemma_mcp.places import Places
from gemma_mcp.server.analyze_image import analyze_image_tool
from gemma_mcp.server.caller import Caller, Engines
from gemma_mcp.server.chat import chat_tool
from gemma_mcp.server.complete_code import complete_code_tool
from gemma_mcp.server.files import TextFiles
from gemma_mcp.server.generate_text import generate_text_tool
from gemma_mcp.server.images import ImageLimits, Images
from gemma_mcp.server.paths import PathPolicy
from gemma_mcp.server.session_resource import add_session_resource
from gemma_mcp.server.sessions import Limits, Sessions, SessionStore
from gemma_mcp.server.tool import GemmaTool
from gemma_mcp.settings import Settings

__all__ = ["INSTRUCTIONS", "build_server"]

INSTRUCTIONS = """\
gemma-mcp runs Google's Gemma models on the user's own hardware. Hand it the mechanical part of a job: it costs \
nothing per token, keeps files private, and saves your context, since every text tool takes `files` and reads them \
itself.

- generate_text: summaries, log triage, classification, extraction to JSON (json_schema), rewriting, commit messages.
- complete_code: what belongs at a cursor in a file, ready to insert.
- analyze_image: what is on an image, OCR, several images at once.
- chat: several turns over the same material.

Name paths ("src/app.py", "server.log:100-400") rather than pasting contents. Run independent calls at the same time. \
Say in the prompt what the answer must look like. Check what matters: the models are small.

Every result ends with a line in brackets: model, device, why it ended, tokens, seconds, what was cut. A call gives \
back what it has after max_seconds (50 by default). If a model is still loading then, call again: loading goes on. If \
that line says that the starter model answered, it is a toy: tell the user how to get a real one."""


def build_server(pool: Engines, settings: Settings, project_root: Path, places: Places) -> MCPServer:
    """A server on `pool`, reading files below `project_root`, keeping what it keeps in `places`.

    Starts nothing and opens nothing: the first call of a tool does.
    """
    sessions = Sessions(SessionStore(places.sessions, Limits.of(settings.sessions)))
    tools = _tools(pool, settings, project_root, sessions)
    server = MCPServer(
        "gemma-mcp",
        title="Gemma on your own hardware",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=list(tools),
        log_level="WARNING",
        middleware=[_Calls(tuple(tool.name for tool in tools))],
    )
    add_session_resource(server, sessions)
    return server


def _tools(pool: Engines, settings: Settings, project_root: Path, sessions: Sessions) -> tuple[GemmaTool, ...]:
    limits = settings.server
    caller = Caller(pool, limits, settings.model.default)
    policy = PathPolicy(project_root)
    files = TextFiles(policy, limits.max_file_bytes, limits.max_files)
    images = Images(policy, ImageLimits(limits.max_images, limits.max_image_bytes, limits.max_image_pixels))
    return (
        generate_text_tool(caller, files),
        complete_code_tool(caller, files),
        analyze_image_tool(caller, images),
        chat_tool(caller, files, images, sessions),
    )


class _Calls:
    """Refuses, as the protocol wants it, calls of tools that do not exist and arguments that are no object.

    The SDK answers the one with a tool's result and the other without a reason.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call" and ctx.params:
            name = ctx.params.get("name")
            if isinstance(name, str) and name not in self._names:
                raise MCPError(INVALID_PARAMS, self._sentence(name))
            if not isinstance(ctx.params.get("arguments"), dict | None):
                raise MCPError(INVALID_PARAMS, "`arguments` must be an object.")
        return await call_next(ctx)

    def _sentence(self, name: str) -> str:
        near = difflib.get_close_matches(name[:100], self._names, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"Unknown tool: {name[:100]}.{hint} Tools: {', '.join(self._names)}."
