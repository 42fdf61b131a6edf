"""How the tests of this folder plan a benchmark, and what results they make up."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_mcp.bench.plan import Plan
from gemma_mcp.bench.results import Machine, ModelFacts, Results, Series
from gemma_mcp.bench.scenarios import parse_scenario
from gemma_mcp.bench.targets import TargetSetup
from gemma_mcp.places import Places
from gemma_mcp.settings_sources import load_settings

__all__ = ["MACHINE", "made_up", "plan_of", "series"]

MACHINE = Machine("Linux x86_64", "Test Processor", 2, 2, 8 << 30, "3.11.0")
SLOTS = 3


def plan_of(model: str | None, scenarios: Sequence[str], folder: Path, **options: Any) -> Plan:
    """Two rounds of both engines of ours, with one thread, unless the options say something else."""
    places = Places.below(folder)
    given = {"llamacpp.threads": "1", "llamacpp.slots": str(SLOTS)}
    fields: dict[str, Any] = {"engines": ("ours", "unshared"), "rounds": 2, "seed": 1} | options
    return Plan(
        scenarios=tuple(map(parse_scenario, scenarios)),
        model=model,
        settings=load_settings({}, given, places).settings,
        chosen=frozenset(given),
        places=places,
        environ=os.environ,
        **fields,
    )


def series(metric: str, target: str, *values: float, unit: str = "s", better: Any = "lower") -> Series:
    """A figure of `map`."""
    return Series("map:requests=8", "map: 8 requests", target, metric, metric, unit, better, values)


def made_up(*figures: Series, machine: Machine = MACHINE, **fields: Any) -> Results:
    """Results that hold them."""
    names = dict.fromkeys(one.target for one in figures)
    return Results(
        created="2026-01-01T00:00:00+00:00",
        version="1",
        seed=1,
        rounds=3,
        machine=machine,
        model=ModelFacts("tiny", "gemma3", 1_000_000, 900_000),
        targets=tuple(TargetSetup(name, "own", "tiny") for name in names),
        series=figures,
        **fields,
    )
