"""`gemma-mcp stats`: the tokens that were kept out of clients' contexts, by day and in total."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gemma_mcp.cli.console import aligned
from gemma_mcp.cli.invocation import Invocation, overriding

if TYPE_CHECKING:
    from gemma_mcp.server.savings import Figures, SavingsStore

__all__ = ["stats"]

HEAD = ("day", "calls", "unknown", "files", "results", "tools", "saved")

NOTES = """\
Tokens, counted with the tokenizer of the model that answered: an estimate for
those of your client. files: text that Gemma read and your client did not, once
per session. results: what came back. tools: descriptions and instructions of
the tools, once per session. saved: files - results - tools. unknown: calls that
could not be counted. Images and arguments count neither way."""


@click.command()
@click.option("-n", "--days", default=14, show_default=True, type=click.IntRange(1), help="Latest days that are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all days.")
@click.option("--reset", is_flag=True, help="Forget all figures and start anew.")
@overriding
@click.pass_obj
def stats(given: Invocation, days: int, as_json: bool, reset: bool) -> None:
    """Say how many tokens were kept out of your clients' contexts."""
    from gemma_mcp.server.savings import SavingsStore, savings_path

    store = SavingsStore(savings_path(given.places))
    if reset:
        store.reset()
        click.echo(f"The figures in {store.path} are forgotten; counting starts anew.")
    elif as_json:
        click.echo(_as_json(store))
    else:
        click.echo("\n".join(_lines(store, days)))


def _lines(store: "SavingsStore", shown: int) -> Iterator[str]:
    from gemma_mcp.server.savings import Figures

    days = store.days()
    yield f"Your file: {store.path}{'' if days else ' (nothing in it yet)'}"
    earlier, latest = days[:-shown], days[-shown:]
    rows = [_row(day, figures) for day, figures in latest]
    if earlier:
        rows.insert(0, _row("earlier", sum((figures for _, figures in earlier), Figures())))
    total = _row("total", sum((figures for _, figures in days), Figures()))
    yield from aligned([HEAD, *rows, total], right=range(1, len(HEAD)))
    yield NOTES


def _row(day: str, one: "Figures") -> Sequence[str]:
    counts = (one.calls, one.unknown, one.file_tokens, -one.result_tokens, -one.schema_tokens, one.saved)
    return day, *(f"{count:,}" for count in counts)


def _as_json(store: "SavingsStore") -> str:
    from gemma_mcp.server.savings import Figures

    days = store.days()
    total = sum((figures for _, figures in days), Figures())
    told = {
        "file": str(store.path),
        "total": _fields(total),
        "days": [{"day": day} | _fields(one) for day, one in days],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def _fields(figures: "Figures") -> dict[str, int]:
    return {**asdict(figures), "saved": figures.saved}
