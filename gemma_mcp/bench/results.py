"""What a benchmark found, as it is written to a file and read again."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gemma_mcp.bench.scenario import Better
from gemma_mcp.bench.targets import TargetSetup
from gemma_mcp.errors import InputRefusedError

__all__ = [
    "FORMAT",
    "Machine",
    "ModelFacts",
    "Results",
    "Series",
    "number",
    "ratios",
    "read_results",
    "scaled",
    "shown",
    "write_results",
]

FORMAT = 1
SCALES = {"ms": 1e3, "MB": 1e-6}
"""Of units that are shown; kept are seconds and bytes."""

LARGEST_BYTES = 100_000_000


class Machine(msgspec.Struct, frozen=True):
    """Where it ran."""

    system: str
    processor: str
    physical_cores: int
    usable_cores: int
    memory_bytes: int
    python: str


class ModelFacts(msgspec.Struct, frozen=True):
    """What was run. `token_bytes`: weights read for each token of one sequence; 0 when it is not known."""

    name: str
    architecture: str = ""
    size_bytes: int = 0
    token_bytes: int = 0


class Series(msgspec.Struct, frozen=True):
    """A figure of a target in a scenario: one value per round. Times are in seconds; `unit` is how they are shown."""

    scenario: str
    title: str
    target: str
    metric: str
    label: str
    unit: str
    better: Better
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Between the least and the greatest value, as a share of the median."""
        return (max(self.values) - min(self.values)) / abs(self.median) if self.median else 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same figure in two files."""
        return self.scenario, self.target, self.metric


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to compare. `created`: ISO 8601, UTC. `seed`: what the prompts were made from.

    `bandwidth_bytes`: of memory that all cores read, per second, 0 when not measured; it goes with `decode`. `notes`:
    what was left out, and why; `failures`: of engines.
    """

    format: int = FORMAT
    created: str
    version: str
    seed: int
    rounds: int
    machine: Machine
    model: ModelFacts
    targets: tuple[TargetSetup, ...]
    series: tuple[Series, ...] = ()
    bandwidth_bytes: float = 0.0
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    def scenarios(self) -> list[str]:
        """Their identities, in the order of the run."""
        return list(dict.fromkeys(one.scenario for one in self.series))

    def of(self, scenario: str) -> list[list[Series]]:
        """The figures of a scenario, grouped by metric, targets in order."""
        mine = [one for one in self.series if one.scenario == scenario]
        metrics = dict.fromkeys(one.metric for one in mine)
        return [[one for one in mine if one.metric == metric] for metric in metrics]

    def find(self, scenario: str, target: str, metric: str) -> Series | None:
        """One figure."""
        return next((one for one in self.series if one.key == (scenario, target, metric)), None)


def ratios(first: Series, other: Series) -> Sequence[float]:
    """The first one's values by the other's, round by round: both were measured within moments."""
    return list(_ratios(first, other))


def _ratios(first: Series, other: Series) -> Iterator[float]:
    for ours, theirs in zip(first.values, other.values, strict=False):
        if theirs:
            yield ours / theirs


def number(value: float) -> str:
    """With three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def scaled(series: Series, value: float) -> float:
    """A value of the series in the unit in which it is shown."""
    return value * SCALES.get(series.unit, 1.0)


def shown(series: Series) -> str:
    """The median with its unit."""
    text = number(scaled(series, series.median))
    return f"{text}x" if series.unit == "x" else f"{text} {series.unit}"


def write_results(path: Path, results: msgspec.Struct) -> None:
    """Write the file. Raises InputRefusedError."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    except OSError as error:
        raise InputRefusedError(
            str(path), f"it cannot be written ({(error.strerror or str(error)).lower()})"
        ) from error


def read_results(path: Path) -> Results:
    """Read such a file. Raises InputRefusedError for any other."""
    try:
        with path.open("rb") as file:
            results = msgspec.json.decode(file.read(LARGEST_BYTES), type=Results)
    except OSError as error:
        raise InputRefusedError(str(path), f"it cannot be read ({(error.strerror or str(error)).lower()})") from error
    except msgspec.DecodeError as error:
        raise InputRefusedError(str(path), f"it is no result of a benchmark: {error}") from error
    if results.format != FORMAT or not all(one.values for one in results.series):
        raise InputRefusedError(str(path), "it is of another release's format", "Measure anew with this release.")
    return results
