"""The figures of a benchmark as lines for a terminal of 80 columns."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from gemma_mcp.bench.bandwidth import READ_HOW
from gemma_mcp.bench.results import Results, Series, number, ratios, scaled
from gemma_mcp.bench.targets import TargetSetup
from gemma_mcp.cli.console import aligned, fitted

__all__ = ["lines"]

LABEL = 23
SPREAD = ".."


def lines(results: Results) -> Iterator[str]:
    """All of it."""
    yield from _head(results)
    first = results.targets[0].name
    for scenario in results.scenarios():
        groups = results.of(scenario)
        yield ""
        yield groups[0][0].title
        yield from aligned([_titles(first), *_rows(groups, first)], right=range(2, 6))
    yield from _bandwidth(results)
    for note in results.notes:
        yield fitted(note, "  ", "")


def _head(results: Results) -> Iterator[str]:
    machine, model = results.machine, results.model
    size = f", {model.size_bytes / 1e6:,.0f} MB" if model.size_bytes else ""
    yield f"Model: {model.name}{size}; rounds: {results.rounds}; seed: {results.seed}"
    yield fitted(f"{machine.processor or machine.system}, {machine.usable_cores} cores", "  ", "Machine: ")
    for target in results.targets:
        yield fitted(_described(target), "  ", f"{target.name}: ")


def _described(target: TargetSetup) -> str:
    own = (target.runtime, target.device)
    parts = own if target.kind == "own" else (Path(target.model).name, target.version, target.note)
    return ", ".join(filter(None, parts))


def _titles(first: str) -> list[str]:
    return ["", "engine", "median", "min..max", f"{first}/it"[:9], "min..max"]


def _rows(groups: Sequence[Sequence[Series]], first: str) -> Iterator[list[str]]:
    for group in groups:
        ours = next((one for one in group if one.target == first), None)
        if not group[0].better and len({one.values for one in group}) == 1:
            yield [_label(group[0]), "all", *_figures(group[0]), "", ""]
            continue
        for index, one in enumerate(group):
            other = ours is not None and one is not ours and bool(one.better)
            compared = _compared(ours, one) if ours is not None and other else ["", ""]
            yield [_label(one) if index == 0 else "", one.target, *_figures(one), *compared]


def _label(one: Series) -> str:
    return (one.label if one.unit in ("tokens", "x") else f"{one.label}, {one.unit}").ljust(LABEL)


def _figures(one: Series) -> list[str]:
    return [number(scaled(one, one.median)), _spread([scaled(one, value) for value in one.values])]


def _compared(ours: Series, other: Series) -> list[str]:
    values = ratios(ours, other)
    if not values:
        return ["", ""]
    spread = SPREAD.join((_ratio(min(values)), _ratio(max(values)))) if len(values) > 1 else ""
    return [f"{_ratio(statistics.median(values))}x", spread]


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    return SPREAD.join((number(min(values)), number(max(values)))) if len(set(values)) > 1 else ""


def _bandwidth(results: Results) -> Iterator[str]:
    """How near decoding comes to what memory allows."""
    needed = results.model.token_bytes
    if not results.bandwidth_bytes or not needed:
        return
    limit = results.bandwidth_bytes / needed
    yield ""
    read, token = f"{results.bandwidth_bytes / 1e9:.1f} GB/s", f"{needed / 1e6:,.0f} MB"
    yield f"bandwidth: {read} read, {token} of weights a token: {limit:.1f} tokens/s at most"
    for one in results.series:
        if one.metric == "decode_rate":
            yield f"  {one.target} decodes at {one.median / limit:.0%} of that"
    yield fitted(f"({READ_HOW})", "  ", "  ")
