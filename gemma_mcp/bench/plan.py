"""What a benchmark is to do, and doing it from beginning to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from gemma_mcp.bench.bandwidth import read_bandwidth
from gemma_mcp.bench.endings import ending_bias
from gemma_mcp.bench.lineup import Lineup, fitting_settings
from gemma_mcp.bench.lineup import lineup as put_up
from gemma_mcp.bench.results import Results
from gemma_mcp.bench.run import Run, calibrated, model_facts
from gemma_mcp.bench.scenario import Scenario
from gemma_mcp.bench.shapes import MADE_BY
from gemma_mcp.bench.single import Decode
from gemma_mcp.bench.targets import Peer, Target
from gemma_mcp.hardware import measure
from gemma_mcp.models.gguf import GgufHeader, read_header
from gemma_mcp.models.lookup import find_model
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.types import ModelSpec

__all__ = ["Plan", "Progress", "run_plan"]

Progress = Callable[[float, str], None]
"""Is told how far it is, 0 to 1, and what is being done."""


Keep = Callable[[Results], None]


@dataclass(frozen=True)
class Plan:
    """`model`: a name or an absolute path; None for what peers serve, if no engine of ours takes part. `chosen`: the
    keys of settings that the user has set. `seed`: of prompts, None for new ones. `engines`: which of our own take
    part, in this order, before the peers.
    """

    scenarios: tuple[Scenario, ...]
    model: str | None
    settings: Settings
    chosen: frozenset[str]
    places: Places
    environ: Mapping[str, str]
    engines: tuple[str, ...]
    peers: tuple[Peer, ...] = ()
    rounds: int = 5
    seed: int | None = None

    def spec(self) -> ModelSpec | None:
        """The model's files. Raises what find_model raises."""
        return find_model(self.model, self.settings, self.places) if self.model is not None else None

    def header(self) -> GgufHeader | None:
        """What the model's file says; None for a model without one. Raises LoadFailedError."""
        spec = self.spec()
        return read_header(Path(spec.path)) if spec is not None and spec.path else None

    def lineup(self) -> Lineup:
        """The engines. A synthetic model needs no bias: see `random_weights`."""
        model, spec, header = self.model or "", self.spec(), self.header()
        folders = (*self.settings.model.directories, str(self.places.models))
        settings = fitting_settings(self.settings, self.chosen, model, folders, self.scenarios)
        bias: Mapping[str, float] = {}
        if spec is not None and header is not None and header.text("general.author") != MADE_BY:
            bias = ending_bias(Path(spec.path))
        return Lineup(self.engines, self.peers, model, settings, self.environ, bias)


async def run_plan(plan: Plan, folder: Path, progress: Progress, keep: Keep) -> None:
    """Measure, and give `keep` the results so far after each scenario. Homes of engines are made below `folder`.

    Raises the errors of `gemma_mcp.errors`.
    """
    header, machine = plan.header(), measure()
    bandwidth = 0.0
    if any(scenario.name == Decode.name for scenario in plan.scenarios):  # before engines take the memory
        progress(0, "measuring memory")
        bandwidth = await to_thread.run_sync(read_bandwidth, machine.usable_cores, machine.available_bytes)
    progress(0, "starting engines")
    async with put_up(plan.lineup(), folder) as targets:
        facts = model_facts(_name(plan, targets[0]), header)
        run = Run(
            targets=targets,
            scenarios=plan.scenarios,
            prompts=await calibrated(header, targets[0], plan.seed),
            rounds=plan.rounds,
            progress=lambda done, total, text: progress(done / total, text),
            closed=lambda: keep(run.results(machine, facts, bandwidth)),
        )
        await run.measure()


def _name(plan: Plan, first: Target) -> str:
    return Path(plan.model or first.setup.model).name.removesuffix(".gguf")
