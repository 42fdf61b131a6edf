"""`gemma-mcp bench`: how fast the engine is, beside itself without sharing and beside other engines."""

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gemma_mcp.cli.console import tell
from gemma_mcp.cli.invocation import Invocation, overriding
from gemma_mcp.cli.progress_line import ProgressLine

if TYPE_CHECKING:  # half a second of imports that `gemma-mcp --help` does without
    from gemma_mcp.bench.plan import Plan
    from gemma_mcp.bench.results import Results
    from gemma_mcp.bench.targets import Peer

__all__ = ["bench"]

OWN = ("ours", "unshared")
MODELS = ("gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "gemma-2-2b")
PEER = re.compile(r"(?:(?P<name>[\w.-]{1,9})=)?(?P<url>https?://\S+)")
GROWTH_LIMIT = 0.02


FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True)
class Wanted:
    """What the command line says, by the names of its options."""

    scenarios: tuple[str, ...]
    synthetic: str | None
    quant: str
    model: str | None
    own: tuple[str, ...]
    no_own: bool
    peers: tuple[str, ...]
    peer_model: str | None
    peer_key: str | None
    peer_note: str
    rounds: int
    seed: int | None
    json_file: Path | None
    chart: Path | None
    compare: Path | None
    measured: Path | None
    soak: float | None


@click.command()
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--synthetic", type=click.Choice(MODELS), help="Random weights at this model's shapes, made locally.")
@click.option("--quant", default="Q4_0", show_default=True, metavar="TYPE", help="Of --synthetic: a type of llama.cpp.")
@click.option("--model", metavar="NAME", help="A model by name or path instead.  [default: model.default]")
@click.option("--engine", "own", multiple=True, type=click.Choice(OWN), help="Engines of ours.  [default: both]")
@click.option("--no-own", is_flag=True, help="Measure peers alone.")
@click.option("--peer", "peers", multiple=True, metavar="[NAME=]URL", help="An OpenAI-compatible engine that runs.")
@click.option("--peer-model", metavar="NAME", help="What peers call the model.  [default: the first that they name]")
@click.option("--peer-key", metavar="VARIABLE", help="Environment variable that holds the API key of peers.")
@click.option("--peer-note", default="", metavar="TEXT", help="Written down with the figures: how peers were started.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000), help="How often all take turns.")
@click.option("--seed", type=int, help="Of the prompts; without it they are new ones each time.")
@click.option("--json", "json_file", type=FILE, help="Write everything there.")
@click.option("--chart", type=FILE, help="Write an SVG chart there.")
@click.option("--compare", type=FILE, help="Exit with 1 if something is worse than in this --json file.")
@click.option("--with", "measured", type=FILE, help="Measure nothing: take the figures of this --json file.")
@click.option("--soak", type=click.FloatRange(0, min_open=True), metavar="MINUTES", help="Watch memory under requests.")
@overriding
@click.pass_context
def bench(context: click.Context, **options: Any) -> None:
    """Measure engines that do the same work in turn, over HTTP, from outside.

    SCENARIO: prefill, decode, concurrency, map, ask, chat, mixed; with numbers as map:32 or map:requests=32,own=16.
    Engines of ours get a home of their own; "unshared" is ours without the prefix cache. The user's is left alone.
    """
    from gemma_mcp.bench.results import read_results

    wanted = Wanted(**options)
    _check(wanted)
    given = context.find_object(Invocation)
    assert given is not None
    old = read_results(wanted.compare) if wanted.compare is not None else None
    if wanted.soak is not None:
        context.exit(_soak(_plan(given, wanted), wanted.soak, wanted.json_file))
    results = _run(_plan(given, wanted), wanted.json_file) if wanted.measured is None else read_results(wanted.measured)
    _show(results, wanted.chart)
    for failure in results.failures:
        tell(failure)
    worse = old is not None and _is_worse(old, results)
    context.exit(1 if worse or results.failures else 0)


def _check(wanted: Wanted) -> None:
    """Raise UsageError for options that do not go together."""
    if wanted.soak is not None and (wanted.scenarios or wanted.compare or wanted.chart or wanted.measured):
        raise click.UsageError("--soak goes with no scenario, --compare, --chart or --with.")
    if wanted.measured is not None and (wanted.scenarios or wanted.json_file):
        raise click.UsageError("--with measures nothing: it goes with --compare and --chart only.")
    if wanted.synthetic and wanted.model:
        raise click.UsageError("--synthetic and --model are both given; give one of them.")
    if wanted.no_own and (wanted.own or not wanted.peers or wanted.soak is not None):
        raise click.UsageError("--no-own goes with --peer, and with neither --engine nor --soak.")


def _peers(given: Invocation, wanted: Wanted) -> "tuple[Peer, ...]":
    from gemma_mcp.bench.targets import Peer

    key = _key(given, wanted)
    found: list[Peer] = []
    for number, text in enumerate(wanted.peers, 1):
        match = PEER.fullmatch(text)
        if match is None:
            raise click.UsageError(f"--peer {text!r} is not of the form URL or NAME=URL, the name of up to 9 letters.")
        name = match["name"] or ("peer" if len(wanted.peers) == 1 else f"peer{number}")
        if name in (*OWN, *(one.name for one in found)):
            raise click.UsageError(f"--peer: the name {name!r} is taken.")
        found.append(Peer(name, match["url"], wanted.peer_model, key, wanted.peer_note))
    return tuple(found)


def _key(given: Invocation, wanted: Wanted) -> str:
    if wanted.peer_key is None:
        return ""
    key = given.environ.get(wanted.peer_key, "")
    if not key:
        raise click.UsageError(f"--peer-key: the environment variable {wanted.peer_key} is not set.")
    return key


def _plan(given: Invocation, wanted: Wanted) -> "Plan":
    from gemma_mcp.bench.plan import Plan
    from gemma_mcp.bench.scenarios import DEFAULT, parse_scenario

    engines, peers = (() if wanted.no_own else tuple(dict.fromkeys(wanted.own or OWN))), _peers(given, wanted)
    loaded = given.loaded
    return Plan(
        scenarios=tuple(map(parse_scenario, dict.fromkeys(wanted.scenarios or DEFAULT))),
        model=_model(given, wanted),
        settings=loaded.settings,
        chosen=frozenset(key for key, _, origin in loaded.items() if origin.kind != "default"),
        places=given.places,
        environ=given.environ,
        engines=engines,
        peers=peers,
        rounds=wanted.rounds,
        seed=wanted.seed,
    )


def _model(given: Invocation, wanted: Wanted) -> str | None:
    """A name, or an absolute path; None for what peers serve when they are alone."""
    if wanted.synthetic:
        return str(_synthetic(given, wanted.synthetic, wanted.quant.upper()))
    if wanted.no_own and wanted.model is None:
        return None
    name = wanted.model or given.loaded.settings.model.default
    return str(Path(name).absolute()) if Path(name).is_file() else name


def _synthetic(given: Invocation, name: str, quant: str) -> Path:
    from gemma_mcp.bench.shapes import SHAPES
    from gemma_mcp.bench.synthetic import synthetic_model

    with ProgressLine() as line:
        return synthetic_model(SHAPES[name], quant, given.places, line.show)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gemma-mcp-bench-", ignore_cleanup_errors=True)


def _run(plan: "Plan", json_file: Path | None) -> "Results":
    """The file has what was measured so far after each scenario, and the table shows it when Ctrl-C ends the run."""
    import anyio

    from gemma_mcp.bench.plan import run_plan
    from gemma_mcp.bench.results import Results, write_results

    found: list[Results] = []

    def keep(results: Results) -> None:
        found.append(results)
        if json_file is not None:
            write_results(json_file, results)

    try:
        with _folder() as folder, ProgressLine() as line:
            anyio.run(run_plan, plan, Path(folder), line.show, keep)
    except KeyboardInterrupt:
        if not found:
            raise
        tell("Interrupted: these are the figures of the scenarios that were done.")
    return found[-1]


def _soak(plan: "Plan", minutes: float, json_file: Path | None) -> int:
    """1 when memory grew."""
    import anyio

    from gemma_mcp.bench.results import write_results
    from gemma_mcp.bench.soak import run_soak

    with _folder() as folder, ProgressLine() as line:
        found = anyio.run(run_soak, plan, minutes * 60, Path(folder), line.show)
    click.echo("\n".join(found.lines()))
    if json_file is not None:
        write_results(json_file, found)
    if found.growth <= GROWTH_LIMIT:
        return 0
    tell(f"Memory grew by {found.growth:.1%} after the warm-up, more than {GROWTH_LIMIT:.0%}.")
    return 1


def _show(results: "Results", chart: Path | None) -> None:
    from gemma_mcp.bench.chart import write_chart
    from gemma_mcp.cli.bench_table import lines

    click.echo("\n".join(lines(results)))
    if chart is not None:
        write_chart(chart, results)


def _is_worse(old: "Results", new: "Results") -> bool:
    """Says what became worse."""
    from gemma_mcp.bench.comparison import differences, regressions

    for text in differences(old, new):
        tell(text)
    found = regressions(old, new)
    sys.stdout.flush()
    for one in found:
        tell(str(one))
    if not found:
        click.echo("No figure is worse than before, beyond the noise.")
    return bool(found)
