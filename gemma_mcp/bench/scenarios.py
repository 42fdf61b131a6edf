"""The scenarios by name, and how a command line names them: `map`, `map:32`, `map:requests=32,own=16`."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from gemma_mcp.bench.mixed import Mixed
from gemma_mcp.bench.scenario import Scenario
from gemma_mcp.bench.sharing import Ask, Chat, Map
from gemma_mcp.bench.single import Concurrency, Decode, Prefill
from gemma_mcp.errors import RequestError

__all__ = ["DEFAULT", "SCENARIOS", "identity", "parse_scenario"]

SCENARIOS: Mapping[str, type[Scenario]] = MappingProxyType(
    {kind.name: kind for kind in (Prefill, Decode, Concurrency, Map, Ask, Chat, Mixed)}
)

DEFAULT = ("prefill", "decode", "concurrency:8", "concurrency:16", "map:8", "map:32", "ask", "chat", "mixed")
"""What is run when nothing is named."""

LARGEST = 1_000_000


def parse_scenario(text: str) -> Scenario:
    """The scenario of a text. Raises RequestError, naming what there is."""
    name, _, given = text.partition(":")
    kind = SCENARIOS.get(name)
    if kind is None:
        raise RequestError(f"There is no scenario {name!r}.", f"There are: {', '.join(SCENARIOS)}.")
    names = [field.name for field in dataclasses.fields(cast("Any", kind))]
    values: dict[str, int] = {}
    for part in filter(None, given.split(",")):
        key, number = part.split("=", 1) if "=" in part else (names[0], part)
        if key not in names or not _is_count(number):
            raise RequestError(
                f"The scenario {text!r} is not understood at {part!r}.",
                f"{name} takes whole numbers from 1: {', '.join(f'{one}=N' for one in names)}.",
            )
        values[key] = int(number)
    return kind(**values)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST)) and 1 <= int(text) <= LARGEST


def identity(scenario: Scenario) -> str:
    """The text that names the scenario with all its numbers: what is compared is the same work."""
    numbers = dataclasses.asdict(cast("Any", scenario))
    return f"{scenario.name}:{','.join(f'{key}={value}' for key, value in numbers.items())}"
