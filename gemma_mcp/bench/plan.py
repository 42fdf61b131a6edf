"""What a benchmark is to do, and doing it from beginning to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from gemma_mcp.bench.bandwidth import read_bandwidth
from gemma_mcp.bench.endings import ending_bias
from gemma_mcp.bench.lineup import Lineup, Peer, fitting_settings
from gemma_mcp.bench.lineup import lineup as put_up
from gemma_mcp.bench.results import Results
from gemma_mcp.bench.run import Run, calibrated, model_facts
from gemma_mcp.bench.scenario import Scenario
from gemma_mcp.bench.shapes import MADE_BY
from gemma_mcp.hardware import measure
from gemma_mcp.models.gguf import GgufHeader, read_header
from gemma_mcp.models.lookup import find_model
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.types import ModelSpec

__all__ = ["Plan", "Progress", "run_plan"]

Progress = Callable[[float, str], None]
"""Is told how far it is, 0 to 1, and what is being done."""


@dataclass(frozen=True)
class Plan:
    """`model`: a name or an absolute path. `chosen`: the keys of settings that the user has set. `seed`: of prompts,
    None for new ones. `engines`: which of our own take part, in this order, before the peers.
    """

    scenarios: tuple[Scenario, ...]
    model: str
    settings: Settings
    chosen: frozenset[str]
    places: Places
    environ: Mapping[str, str]
    engines: tuple[str, ...]
    peers: tuple[Peer, ...] = ()
    rounds: int = 5
    seed: int | None = None

    def spec(self) -> ModelSpec:
        """The model's files. Raises what find_model raises."""
        return find_model(self.model, self.settings, self.places)

    def lineup(self, header: GgufHeader | None, spec: ModelSpec) -> Lineup:
        """The engines. A synthetic model needs no bias: see `random_weights`."""
        folders = (*self.settings.model.directories, str(self.places.models))
        settings = fitting_settings(self.settings, self.chosen, self.model, folders, self.scenarios)
        synthetic = header is None or header.text("general.author") == MADE_BY
        bias = {} if synthetic else ending_bias(Path(spec.path))
        return Lineup(self.engines, self.peers, self.model, settings, self.environ, bias)


async def run_plan(plan: Plan, folder: Path, progress: Progress) -> Results:
    """The results; homes of engines are made below `folder`. Raises the errors of `gemma_mcp.errors`."""
    spec = plan.spec()
    header = read_header(Path(spec.path)) if spec.path else None
    machine = measure()
    progress(0, "measuring memory")
    bandwidth = await anyio.to_thread.run_sync(read_bandwidth, machine.usable_cores, machine.available_bytes)
    progress(0, "starting engines")
    async with put_up(plan.lineup(header, spec), folder) as targets:
        prompts = await calibrated(header, targets[0], plan.seed)
        run = Run(targets, plan.scenarios, prompts, plan.rounds, lambda done, total, text: progress(done / total, text))
        await run.measure()
        run.close()
        return run.results(machine, model_facts(spec, header), bandwidth)
