"""Puts the server together: five tools on a pool of engines, resources, prompts, and the store of sessions."""

import difflib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mcp.server import CacheHint, MCPServer
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
from gemma_mcp.server.generate_text import generate_text_tool
from gemma_mcp.server.inputs.files import TextFiles
from gemma_mcp.server.inputs.images import ImageLimits, Images
from gemma_mcp.server.inputs.no_files import NoFiles
from gemma_mcp.server.inputs.paths import PathPolicy
from gemma_mcp.server.inputs.sources import FileSources
from gemma_mcp.server.ledger import Ledger
from gemma_mcp.server.map_files import MapFiles, map_files_tool
from gemma_mcp.server.maps.bulk import BulkCaller
from gemma_mcp.server.maps.cache import ResultCache
from gemma_mcp.server.maps.folder import ResultFolder
from gemma_mcp.server.maps.job import mark_of_name
from gemma_mcp.server.model_list import ModelList
from gemma_mcp.server.prompts import job_prompts
from gemma_mcp.server.resources import resources_of
from gemma_mcp.server.savings import SavingsStore, savings_path
from gemma_mcp.server.session_resource import add_session_resource
from gemma_mcp.server.sessions import Limits, Sessions, SessionStore
from gemma_mcp.server.status import Status
from gemma_mcp.server.tasks import Tasks
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
- map_files: one instruction over many files or lines, results as JSON Lines on disk, a digest back.
- chat: several turns over the same material.

Name paths ("src/app.py", "server.log:100-400", "src/**/*.py", "git:diff --staged") rather than pasting contents. Run \
independent calls at the same time. Say in the prompt what the answer must look like. Check what matters: the models \
are small.

Every result ends with a line in brackets: model, device, why it ended, tokens, seconds, what was cut. A call gives \
back what it has after max_seconds (50 by default). If a model is still loading then, call again: loading goes on. If \
that line says that the starter model answered, it is a toy: tell the user how to get a real one."""

UNCHANGING = CacheHint(ttl_ms=300_000)
"""For what stays the same as long as a server lives; a client that outlives it, as over HTTP, asks again soon."""


def build_server(
    pool: Engines,
    settings: Settings,
    project_root: Path | None,
    places: Places,
    *,
    origins: Mapping[str, Origin] = NO_ORIGINS,
    extra: Callable[[MCPServer], None] | None = None,
    tasks: Tasks | None = None,
) -> MCPServer:
    """A server on `pool`, reading files below `project_root`, or none, and keeping what it keeps in `places`.

    Starts nothing and opens nothing: the first call of a tool does. `origins` say where settings come from that are not
    the defaults. `extra` may add to the server what only a test offers, such as the fixtures of the conformance suite;
    `tasks` may treat these in a way of its own.
    """
    tasks = tasks or Tasks(settings.server)
    policy = NoFiles() if project_root is None else PathPolicy.configured(settings.server, project_root)
    inventory = Inventory(settings, places)
    sessions = Sessions(SessionStore(places.sessions, Limits.of(settings.sessions)))
    tools = _tools(pool, settings, policy, sessions, places)
    ledger = _ledger(pool, settings, places, tools)
    status = Status(pool, settings, origins, project_root, inventory, ledger)
    server = MCPServer(
        "gemma-mcp",
        title="Gemma on your own hardware",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=list(tools),
        resources=resources_of(status, ModelList(pool, settings, inventory)),
        log_level="WARNING",
        extensions=[tasks],
        cache_hints={"server/discover": UNCHANGING, "tools/list": UNCHANGING, "prompts/list": UNCHANGING},
        lifespan=lambda _: _background(tasks, ledger),
    )
    add_session_resource(server, sessions)
    for prompt in job_prompts(policy.exists, inventory.knows):
        server.add_prompt(prompt)
    server.completion()(_completions(inventory, policy, sessions).complete)
    if extra is not None:
        extra(server)
    server.middleware.append(_Calls(server))
    return server


@asynccontextmanager
async def _background(tasks: Tasks, ledger: Ledger) -> AsyncGenerator[None]:
    """What goes on beside the requests; calls that run as tasks end before the count of what they brought."""
    async with ledger.counting(), tasks.running():
        yield


def _ledger(pool: Engines, settings: Settings, places: Places, tools: Sequence[GemmaTool]) -> Ledger:
    """The ledger, told of every call from now on."""
    schemas = (INSTRUCTIONS, *(tool.told for tool in tools))
    ledger = Ledger(pool, settings.model.default, schemas, SavingsStore(savings_path(places)))
    for tool in tools:
        tool.note = ledger.note
    return ledger


def _completions(inventory: Inventory, policy: PathPolicy, sessions: Sessions) -> Completions:
    files = path_names(policy)
    changes = one_of("staged", "unstaged")
    sources = {"model": model_names(inventory), "paths": files, "path": files, "images": files, "changes": changes}
    return Completions({**sources, "id": sessions.names})


def _tools(
    pool: Engines, settings: Settings, policy: PathPolicy, sessions: Sessions, places: Places
) -> tuple[GemmaTool, ...]:
    limits = settings.server
    caller = Caller(pool, limits, settings.model.default)
    files = TextFiles(policy, limits.max_file_bytes, limits.max_files, limits.max_prompt_bytes)
    images = Images(policy, ImageLimits(limits.max_images, limits.max_image_bytes, limits.max_image_pixels))
    return (
        generate_text_tool(caller, files, limits.write),
        complete_code_tool(caller, files),
        analyze_image_tool(caller, images),
        chat_tool(caller, files, images, sessions),
        map_files_tool(_map_files(caller, settings, policy, places), limits.write),
    )


def _map_files(caller: Caller, settings: Settings, policy: PathPolicy, places: Places) -> MapFiles:
    limits = settings.map
    return MapFiles(
        caller,
        BulkCaller(caller, limits.at_once or settings.llamacpp.wanted_slots + min(2, settings.engine.queue_limit)),
        FileSources(TextFiles(policy, limits.max_file_bytes, limits.max_files), limits.max_files),
        ResultFolder.configured(places.maps, limits),
        ResultCache.configured(places.maps, limits),
        partial(mark_of_name, settings=settings, places=places),
        limits.max_records,
    )


class _Calls:
    """Refuses, as the protocol wants it, calls of what does not exist and arguments that are no object.

    The SDK answers the one with a tool's result or as if the server had failed, and the other without a reason.
    """

    def __init__(self, server: MCPServer) -> None:
        self._server = server

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method in ("tools/call", "prompts/get") and ctx.params:
            name = ctx.params.get("name")
            if isinstance(name, str):
                await self._refuse_unknown("tool" if ctx.method == "tools/call" else "prompt", name)
            if not isinstance(ctx.params.get("arguments"), dict | None):
                raise MCPError(INVALID_PARAMS, "`arguments` must be an object.")
        return await call_next(ctx)

    async def _refuse_unknown(self, kind: str, name: str) -> None:
        listed = await (self._server.list_tools() if kind == "tool" else self._server.list_prompts())
        names = [one.name for one in listed]
        if name not in names:
            near = difflib.get_close_matches(name[:100], names, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            sentence = f"Unknown {kind}: {name[:100]}.{hint} {kind.capitalize()}s: {', '.join(names)}."
            raise MCPError(INVALID_PARAMS, sentence)
