"""`gemma-mcp config`: every setting, its value, and where that comes from."""

import json
from collections.abc import Iterator

import click

from gemma_mcp.cli.console import aligned
from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.settings_sources import LoadedSettings

__all__ = ["config"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@overriding
@click.pass_obj
def config(given: Invocation, as_json: bool) -> None:
    """Print every setting, its value and its origin."""
    loaded = given.loaded
    click.echo(_as_json(loaded) if as_json else "\n".join(_lines(loaded)))


def _lines(loaded: LoadedSettings) -> Iterator[str]:
    exists = "" if loaded.config_file.exists() else " (does not exist yet)"
    yield f"Your file: {loaded.config_file}{exists}"
    rows = [
        (key, json.dumps(value, ensure_ascii=False), "default" if origin.kind == "default" else str(origin))
        for key, value, origin in loaded.items()
    ]
    yield from aligned(rows)


def _as_json(loaded: LoadedSettings) -> str:
    settings = [
        {"key": key, "value": value, "origin": {"kind": origin.kind, "where": origin.where, "line": origin.line}}
        for key, value, origin in loaded.items()
    ]
    return json.dumps({"config_file": str(loaded.config_file), "settings": settings}, indent=2, ensure_ascii=False)
