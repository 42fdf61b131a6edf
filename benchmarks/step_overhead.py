"""What a scheduler step costs beside the model: everything but the runtime's pass and the samplers.

Drives the real scheduler and a real worker process with the echo backend, so the figure holds planning, framing, the
pipes, both processes' loops, committing and handing the text to its readers. Run it on an idle machine:

    python -m benchmarks.step_overhead
"""

import statistics
import tempfile
import time
from pathlib import Path

import anyio

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.types import Control, GenerationRequest, Text

TOKENS = 400
ROUNDS = 5


async def read(model: LoadedModel, number: int) -> None:
    """One request of TOKENS tokens, all of its events read."""
    turn = Control("<bos><start_of_turn>user\n"), Text(f"!repeat {TOKENS} {number % 10}"), Control("<end_of_turn>\n")
    request = GenerationRequest(segments=(*turn, Control("<start_of_turn>model\n")))
    async with model.stream(request) as events:
        async for _ in events:
            pass


async def overhead(model: LoadedModel, slots: int) -> float:
    """Microseconds a step, for one round with so many slots decoding."""
    before, started = (model.stats.steps, model.stats.compute_seconds + model.stats.sample_seconds), time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(slots):
            tasks.start_soon(read, model, number)
    wall = time.perf_counter() - started
    native = model.stats.compute_seconds + model.stats.sample_seconds - before[1]
    return (wall - native) / (model.stats.steps - before[0]) * 1e6


async def main() -> None:
    """Print the median of ROUNDS rounds for 1, 8 and 32 slots."""
    with tempfile.TemporaryDirectory() as folder:
        for slots in (1, 8, 32):
            spec, options = ModelSpec(name="echo", format="echo", path=""), LoadOptions(slots=slots)
            log = Path(folder) / "worker.log"
            async with open_model("echo", spec, options, queue_limit=64, prefill_chunk=256, log=log) as model:
                figures = [await overhead(model, slots) for _ in range(ROUNDS)]
            print(f"{slots:3d} slots: {statistics.median(figures):6.0f} us a step (of {sorted(map(round, figures))})")


if __name__ == "__main__":
    anyio.run(main)
