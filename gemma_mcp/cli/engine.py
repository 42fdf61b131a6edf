"""`gemma-mcp engine`: the process that holds the models."""

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import click
import msgspec

from gemma_mcp.cli.invocation import Invocation, overriding

if TYPE_CHECKING:  # half a second of imports that `gemma-mcp --help` does without
    from gemma_mcp.client.pool import EnginePool
    from gemma_mcp.state import EngineStatus

__all__ = ["engine"]

Answer = TypeVar("Answer")


@click.group()
def engine() -> None:
    """The process that holds the models. Servers start it on demand, and it ends by itself when idle."""


@engine.command()
@overriding
@click.pass_obj
def run(given: Invocation) -> None:
    """Run an engine here, in the foreground; its log goes to the usual file."""
    from gemma_mcp.engine.main import run_engine

    run_engine(given.loaded.settings, given.places)


@engine.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@overriding
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Say whether an engine runs, and what it holds. The exit code is 1 if none runs, or none answers."""
    found = _ask(context, lambda pool: pool.running())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    elif found is None:
        click.echo("No engine is running.")
    else:
        click.echo("\n".join(_describe(found)))
    context.exit(0 if found else 1)


@engine.command()
@overriding
@click.pass_context
def stop(context: click.Context) -> None:
    """Stop the engine, if one runs; the next call starts a new one."""
    stopped = _ask(context, lambda pool: pool.stop())
    click.echo("The engine has stopped." if stopped else "No engine is running.")


@engine.command()
@click.option("-n", "--lines", default=50, show_default=True, help="How many lines from the end of each log.")
@overriding
@click.pass_obj
def logs(given: Invocation, lines: int) -> None:
    """Print the ends of the engine's and its workers' logs."""
    paths = sorted(given.places.logs.glob("*.log"))
    if not paths:
        click.echo(f"There are no logs in {given.places.logs} yet.")
    for path in paths:
        click.echo(f"==> {path}")
        for line in _tail(path, lines):
            click.echo(line)


def _ask(context: click.Context, question: "Callable[[EnginePool], Awaitable[Answer]]") -> Answer:
    from gemma_mcp.client.pool import EnginePool

    given = context.find_object(Invocation)
    assert given is not None

    async def ask() -> Answer:
        async with EnginePool(given.loaded.settings, given.places) as pool:
            return await question(pool)

    return anyio.run(ask)


def _describe(found: "EngineStatus") -> Iterator[str]:
    minutes = (time.time() - found.started) / 60
    yield f"Running for {minutes:.0f} min: pid {found.pid}, port {found.port}, version {found.version}"
    if not found.same_settings:
        yield "It was started with other settings than these: `gemma-mcp engine stop` lets the next call start anew."
    for model in found.models:
        state = "ready" if model.loading is None else f"loading, {model.loading:.0%}"
        yield f"  {model.model}: {state}, {model.device}, {model.running} running, {model.waiting} waiting"
        if model.fit:
            yield f"    {model.fit}"
    if not found.models:
        yield "  no model is loaded"


def _tail(path: Path, lines: int) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.splitlines()[-lines:] if lines > 0 else []
