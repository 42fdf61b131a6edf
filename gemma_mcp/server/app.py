"""Puts the server together: four tools on a pool of engines."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS

from gemma_mcp import __version__
from gemma_mcp.models.inventory import Inventory
from gemma_mcp.places import Places
from gemma_mcp.server.analyze_image import analyze_image_tool
from gemma_mcp.server.caller import Caller, Engines
from gemma_mcp.server.chat import chat_tool
from gemma_mcp.server.complete_code import complete_code_tool
from gemma_mcp.server.completion import Completions, model_names, one_of, path_names
from gemma_mcp.server.files import TextFiles
from gemma_mcp.server.generate_text import generate_text_tool
from gemma_mcp.server.images import ImageLimits, Images
from gemma_mcp.server.ledger import Ledger
from gemma_mcp.server.model_list import ModelList
from gemma_mcp.server.paths import PathPolicy
from gemma_mcp.server.prompts import job_prompts
from gemma_mcp.server.resources import resources_of
from gemma_mcp.server.savings import SavingsStore, savings_path
from gemma_mcp.server.sessions import Sessions
from gemma_mcp.server.status import Status
from gemma_mcp.server.tool import GemmaTool
from gemma_mcp.settings import Settings
from gemma_mcp.settings_sources import Origin

__all__ = ["INSTRUCTIONS", "build_server"]

NO_ORIGINS: Mapping[str, Origin] = MappingProxyType({})

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


def build_server(
    pool: Engines,
    settings: Settings,
    project_root: Path,
    places: Places,
    origins: Mapping[str, Origin] = NO_ORIGINS,
) -> MCPServer:
    """A server on `pool`, reading files below `project_root`. Starts nothing: the first call of a tool does.

    `origins` say where settings come from that are not the defaults.
    """
    policy = PathPolicy(project_root)
    inventory = Inventory(settings, places)
    tools = _tools(pool, settings, policy)
    ledger = _ledger(pool, settings, places, tools)
    prompts = job_prompts(policy.exists, inventory.knows)
    server = MCPServer(
        "gemma-mcp",
        title="Gemma on your own hardware",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=list(tools),
        resources=resources_of(
            Status(pool, settings, origins, project_root, inventory, ledger), ModelList(pool, settings, inventory)
        ),
        log_level="WARNING",
        lifespan=lambda _: ledger.counting(),
        middleware=[_Calls(tuple(tool.name for tool in tools), tuple(prompt.name for prompt in prompts))],
    )
    for prompt in prompts:
        server.add_prompt(prompt)
    server.completion()(_completions(inventory, policy).complete)
    return server


def _ledger(pool: Engines, settings: Settings, places: Places, tools: Sequence[GemmaTool]) -> Ledger:
    """The ledger, told of every call from now on."""
    schemas = (INSTRUCTIONS, *(tool.told for tool in tools))
    ledger = Ledger(pool, settings.model.default, schemas, SavingsStore(savings_path(places)))
    for tool in tools:
        tool.note = ledger.note
    return ledger


def _completions(inventory: Inventory, policy: PathPolicy) -> Completions:
    files = path_names(policy)
    changes = one_of("staged", "unstaged")
    return Completions(
        {"model": model_names(inventory), "paths": files, "path": files, "images": files, "changes": changes}
    )


def _tools(pool: Engines, settings: Settings, policy: PathPolicy) -> tuple[GemmaTool, ...]:
    limits = settings.server
    caller = Caller(pool, limits, settings.model.default)
    files = TextFiles(policy, limits.max_file_bytes, limits.max_files)
    images = Images(policy, ImageLimits(limits.max_images, limits.max_image_bytes, limits.max_image_pixels))
    return (
        generate_text_tool(caller, files),
        complete_code_tool(caller, files),
        analyze_image_tool(caller, images),
        chat_tool(caller, files, images, Sessions(limits.max_sessions)),
    )


class _Calls:
    """Refuses, as the protocol wants it, calls of what does not exist and arguments that are no object.

    The SDK answers the one with a tool's result or as if the server had failed, and the other without a reason.
    """

    def __init__(self, tools: tuple[str, ...], prompts: tuple[str, ...]) -> None:
        self._known = {"tools/call": ("tool", tools), "prompts/get": ("prompt", prompts)}

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method in self._known and ctx.params:
            name = ctx.params.get("name")
            if isinstance(name, str) and name not in self._known[ctx.method][1]:
                raise MCPError(INVALID_PARAMS, self._sentence(ctx.method, name))
            if not isinstance(ctx.params.get("arguments"), dict | None):
                raise MCPError(INVALID_PARAMS, "`arguments` must be an object.")
        return await call_next(ctx)

    def _sentence(self, method: str, name: str) -> str:
        kind, names = self._known[method]
        near = difflib.get_close_matches(name[:100], names, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"Unknown {kind}: {name[:100]}.{hint} {kind.capitalize()}s: {', '.join(names)}."
