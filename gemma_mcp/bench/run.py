"""Runs scenarios: in each round every target does the same work in turn, A B A B."""

import dataclasses
import datetime
import platform
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gemma_mcp
from gemma_mcp.bench.bandwidth import token_bytes
from gemma_mcp.bench.prompts import Prompts, words_of
from gemma_mcp.bench.results import Machine, ModelFacts, Results, Series
from gemma_mcp.bench.scenario import Metric, Scenario
from gemma_mcp.bench.scenarios import identity
from gemma_mcp.bench.targets import Target
from gemma_mcp.errors import RemoteError
from gemma_mcp.hardware import Hardware
from gemma_mcp.models.gguf import GgufHeader

__all__ = ["MEMORY", "Progress", "Run", "calibrated", "model_facts"]

MEMORY = "memory"
"""The scenario under which the resident memory of our own engines stands."""

_MEMORY_METRICS = (
    Metric("engine_bytes", "engine, resident", "MB", "lower"),
    Metric("worker_bytes", "worker, resident", "MB", "lower"),
)
CALIBRATION_WORDS = 256

Progress = Callable[[int, int, str], None]
"""Is told how many measures are done, of how many, and what comes next or was found."""


@dataclass
class Run:
    """A benchmark under way. A target that fails is out of that scenario; the others go on."""

    targets: Sequence[Target]
    scenarios: Sequence[Scenario]
    prompts: Prompts
    rounds: int
    progress: Progress
    closed: Callable[[], None]
    """Called when a scenario is done."""
    series: list[Series] = field(default_factory=list[Series])
    notes: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])
    _values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict[tuple[str, str, str], list[float]])
    _done: int = 0

    async def measure(self) -> None:
        """Everything."""
        for scenario in self.scenarios:
            able = self._able(scenario)
            for turn in range(self.rounds):
                for target in tuple(able):
                    try:
                        await self._once(scenario, target, turn)
                    except RemoteError as error:
                        self.failures.append(f"{scenario.name}, round {turn + 1}: {error}")
                        able.remove(target)
            self._close(scenario, able)
            self.closed()

    def _able(self, scenario: Scenario) -> list[Target]:
        able = [target for target in self.targets if target.home is not None or not scenario.restarts]
        for target in self.targets:
            if target not in able:
                self.notes.append(f"{scenario.name}: left out for {target.name}, which cannot be restarted from here.")
                self._done += self.rounds
        return able

    async def _once(self, scenario: Scenario, target: Target, turn: int) -> None:
        total = self.rounds * len(self.targets) * len(self.scenarios)
        self.progress(self._done, total, f"{scenario.name}, round {turn + 1}, {target.name}")
        figures = await scenario.measure(target, self.prompts, turn)
        for key, value in figures.items():
            self._values.setdefault((identity(scenario), target.name, key), []).append(value)
        if target.home is not None:
            for key, value in dataclasses.asdict(target.home.memory()).items():
                self._values.setdefault((MEMORY, target.name, key), []).append(value)
        self._done += 1

    def _close(self, scenario: Scenario, able: Sequence[Target]) -> None:
        name = identity(scenario)
        for metric in scenario.metrics:
            for target in able:
                values = self._values.get((name, target.name, metric.key))
                if values:
                    title = f"{scenario.name}: {scenario.describe()}"
                    self.series.append(_series(name, title, target, metric, values))

    def _memory(self) -> Iterator[Series]:
        """Of which the most that was seen counts."""
        for metric in _MEMORY_METRICS:
            for target in self.targets:
                values = self._values.get((MEMORY, target.name, metric.key))
                if values:
                    title = "memory, the most that was seen after a scenario"
                    yield _series(MEMORY, title, target, metric, [max(values)])

    def results(self, machine: Hardware, model: ModelFacts, bandwidth: float) -> Results:
        """As it stands now."""
        return Results(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            version=gemma_mcp.__version__,
            seed=self.prompts.seed,
            rounds=self.rounds,
            machine=_described(machine),
            model=model,
            targets=tuple(target.setup for target in self.targets),
            series=(*self.series, *self._memory()),
            bandwidth_bytes=bandwidth,
            notes=tuple(self.notes),
            failures=tuple(self.failures),
        )


def _series(scenario: str, title: str, target: Target, metric: Metric, values: Sequence[float]) -> Series:
    return Series(
        scenario=scenario,
        title=title,
        target=target.name,
        metric=metric.key,
        label=metric.label,
        unit=metric.unit,
        better=metric.better,
        values=tuple(values),
    )


async def calibrated(header: GgufHeader | None, first: Target, seed: int | None) -> Prompts:
    """Prompts for a model. How many tokens its words have is asked of the first target; of a synthetic model's, one."""
    words = words_of(header)
    prompts = Prompts(words, random.SystemRandom().getrandbits(32) if seed is None else seed)
    empty = await first.completion(" ", 1).run()
    some = await first.completion(prompts.text(CALIBRATION_WORDS, "measure"), 1).run()
    share = max(some.prompt_tokens - empty.prompt_tokens, 1) / CALIBRATION_WORDS
    return Prompts(words, prompts.seed, 1.0 if abs(share - 1) < 2 / CALIBRATION_WORDS else share)


def model_facts(name: str, header: GgufHeader | None) -> ModelFacts:
    """What is written down about the model: its name, not where it lies."""
    if header is None:
        return ModelFacts(name)
    return ModelFacts(name, header.architecture, header.size_bytes, token_bytes(header))


def _described(machine: Hardware) -> Machine:
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        physical_cores=machine.physical_cores,
        usable_cores=machine.usable_cores,
        memory_bytes=machine.memory_bytes,
        python=platform.python_version(),
    )


def _processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
