"""`gemma-mcp demo`: all the tools, called the way a client calls them, each with its progress and its answer."""

import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gemma_mcp.cli.console import columns, fitted
from gemma_mcp.cli.invocation import Invocation, overriding

if TYPE_CHECKING:  # a second of imports that `gemma-mcp --help` does without
    from mcp import Client
    from mcp.types import CallToolResult

    from gemma_mcp.cli.scenes import Scene

__all__ = ["demo"]

MODEL_VARIABLE = "GEMMA_MCP_MODEL_DEFAULT"
LINE_CHARACTERS = 110
"""Of the line on where an answer came from, after the first one."""

NEXT = """\
Add it to Claude Code:
  claude mcp add gemma -- {python} -m gemma_mcp
or to any of six clients:
  {python} -m gemma_mcp install
The answers above come from the starter, a toy of 9 MB. For real ones get a
Gemma GGUF file and name it:
  claude mcp add gemma -e GEMMA_MCP_MODEL_DEFAULT=/path/to/gemma.gguf -- {python} -m gemma_mcp"""


@click.command()
@click.option("--model", default="starter", show_default=True, help="The model to show, by name or path.")
@overriding
@click.pass_context
def demo(context: click.Context, model: str) -> None:
    """Call every tool through a real MCP client. An engine of your own that runs already is left alone."""
    import anyio

    given = context.find_object(Invocation)
    assert given is not None
    right, asked = anyio.run(_show, given, model)
    click.echo(f"\n{right} of {asked} answers are right.")
    if right == asked:
        click.echo(NEXT.format(python=sys.executable))
    context.exit(0 if right == asked else 1)


async def _show(given: Invocation, model: str) -> tuple[int, int]:
    """How many answers were right, and how many questions there were."""
    from gemma_mcp.cli.scenes import prepare, scenes

    with tempfile.TemporaryDirectory(prefix="gemma-mcp-demo-", ignore_cleanup_errors=True) as folder:
        project = Path(folder) / "project"
        project.mkdir()
        prepare(project)
        environment = _environment(given, model, Path(folder) / "home", project)
        right, session = 0, None
        async with _own_engine(environment), _connected(environment, project) as client:
            for number, scene in enumerate(scenes(), 1):
                told, session = await _play(client, number, scene, session)
                right += told
    return right, len(scenes())


def _environment(given: Invocation, model: str, home: Path, project: Path) -> dict[str, str]:
    """The user's settings, with a home of their own: the demo shares nothing that runs with the user's."""
    from gemma_mcp.places import HOME_VARIABLE
    from gemma_mcp.settings_sources import to_environment

    settings = given.loaded.settings
    folders = (*settings.model.directories, str(given.places.models))
    shown = settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"default": model, "directories": folders}),
            "engine": settings.engine.model_copy(update={"port": 0}),
            "server": settings.server.model_copy(update={"root": str(project)}),
        }
    )
    kept = {name: value for name, value in given.environ.items() if not name.startswith("GEMMA_MCP_")}
    return kept | to_environment(shown) | {HOME_VARIABLE: str(home)}


@asynccontextmanager
async def _own_engine(environment: Mapping[str, str]) -> AsyncGenerator[None]:
    """Whatever happens inside, the engine that the demo's server started is stopped in the end."""
    import anyio

    from gemma_mcp.client.pool import EnginePool
    from gemma_mcp.places import Places
    from gemma_mcp.settings_sources import load_settings

    places = Places.find(environment)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            async with EnginePool(load_settings(environment).settings, places) as pool:
                await pool.stop()


@asynccontextmanager
async def _connected(environment: dict[str, str], project: Path) -> "AsyncGenerator[Client]":
    from mcp import Client, MCPError, StdioServerParameters

    from gemma_mcp.errors import RemoteError

    command = [sys.executable, "-m", "gemma_mcp"]
    click.echo(fitted(f"Starting the server: {' '.join(command)}", "  ", ""))
    started = time.perf_counter()
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment, cwd=project)
    try:
        async with Client(parameters) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            click.echo(
                fitted(f"Connected after {time.perf_counter() - started:.1f} s. Tools: {', '.join(tools)}", "  ", "")
            )
            yield client
    except* MCPError as errors:
        why = "; ".join(str(error) for error in errors.exceptions)
        raise RemoteError(f"The server did not do its part: {why}.", "`gemma-mcp doctor` may say why.") from None


async def _play(client: "Client", number: int, scene: "Scene", session: str | None) -> tuple[bool, str | None]:
    """Call the tool, show what comes; whether the answer is right, and the session that it names."""
    arguments = dict(scene.arguments) | ({"session": session} if scene.session and session else {})
    click.secho("\n" + fitted(f"{number}. {scene.tool}: {scene.title}", "   ", ""), bold=True)
    click.echo(fitted(json.dumps(arguments, ensure_ascii=False), "   "))
    progress = Progress()
    result = await client.call_tool(scene.tool, arguments, progress_callback=progress.show)
    progress.close()
    answer, *rest = _texts(result) or [""]
    for line in answer.splitlines() or [""]:
        click.secho(fitted(line, "     ", "   > "), fg="red" if result.is_error else "green")
    for line in rest:
        click.secho(fitted(line if number == 1 else _shortened(line), "   "), dim=True)
    right = not result.is_error and scene.is_right(answer)
    if not right:
        click.secho(f"   wrong: expected {scene.expected}", fg="red")
    return right, (result.meta or {}).get("gemma-mcp", {}).get("session")


def _shortened(line: str) -> str:
    """What is said of the model is the same each time."""
    return line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]} …]"


def _texts(result: "CallToolResult") -> list[str]:
    return [block.text for block in result.content if block.type == "text"]


class Progress:
    """Live progress: one line that is written over on a terminal; the count and the last message elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._count = 0
        self._last = ""

    async def show(self, progress: float, total: float | None, message: str | None) -> None:
        """A notification has come."""
        self._count += 1
        self._last = " ".join((message or f"{progress:g} of {total:g}" if total else message or "").split())
        if self._live:
            width = columns() - 3  # a longer line would wrap, and could not be written over
            click.echo(f"\r   {self._last[:width]:{width}}", nl=False)

    def close(self) -> None:
        """The call is over."""
        if self._live:
            click.echo(f"\r{'':{columns()}}\r", nl=False)
        if self._count:
            click.secho(fitted(f"{self._count} progress notifications, the last: {self._last[:200]}", "   "), dim=True)
