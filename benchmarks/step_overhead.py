"""What a scheduler step costs beside the model: everything but the runtime's pass and the samplers.

Drives the real scheduler and a real worker process with the echo backend, so the figure holds planning, framing, the
pipes, both processes' loops, committing and handing the text to its readers. Run it on an idle machine:

    python -m benchmarks.step_overhead

The first figure is what the machine takes for the same way without any work: a byte to another process, from its thread
that reads to its main thread, and back. It varies by machine and hour, and is in all figures below it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.engine.model import LoadedModel, open_model
from gemma_mcp.types import Control, Delta, GenerationRequest, Text

TOKENS = 400
ROUNDS = 5

BARE_WORKER = """
import os, queue, threading, time
work = queue.SimpleQueue()
def listen():
    while True:
        work.put(os.read(0, 1))
threading.Thread(target=listen, daemon=True).start()
while byte := work.get():
    end = time.perf_counter() + {busy}
    while time.perf_counter() < end:
        pass
    os.write(1, byte)
"""
"""Sends each byte back by way of two threads, as a worker does with its steps; ends with its pipe."""

BUSY_SECONDS = 0.0005
"""As long as a step. A machine that waits goes to sleep meanwhile, and wakes more slowly than one that does not."""


def bare_way(times: int = 1000) -> float:
    """Microseconds for one byte to and fro."""
    with subprocess.Popen(
        [sys.executable, "-c", BARE_WORKER.format(busy=BUSY_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        to, fro = worker.stdin.fileno(), worker.stdout.fileno()
        figures: list[float] = []
        for _ in range(times):
            started = time.perf_counter()
            os.write(to, b"x")
            os.read(fro, 1)
            figures.append(time.perf_counter() - started)
        worker.stdin.close()
    return (statistics.median(figures) - BUSY_SECONDS) * 1e6


class Meter:
    """Takes the time from the moment at which all slots decode until the first reply ends."""

    def __init__(self, model: LoadedModel, slots: int) -> None:
        self._model = model
        self._missing = slots
        self._begun: tuple[float, int] = (0.0, 0)
        self.overhead: float | None = None

    def text_came(self) -> None:
        """One more slot decodes."""
        self._missing -= 1
        if not self._missing:
            self._begun = self._now()

    def reply_ended(self) -> None:
        """One slot decodes no more."""
        if self.overhead is None:
            seconds, steps = self._now()
            self.overhead = (seconds - self._begun[0]) / (steps - self._begun[1])

    def _now(self) -> tuple[float, int]:
        """Seconds outside of the runtime and the samplers, and steps."""
        stats = self._model.stats
        return time.perf_counter() - stats.compute_seconds - stats.sample_seconds, stats.steps


async def read(model: LoadedModel, number: int, meter: Meter) -> None:
    """One request of TOKENS tokens, all of its events read."""
    turn = Control("<bos><start_of_turn>user\n"), Text(f"!repeat {TOKENS} {number % 10}"), Control("<end_of_turn>\n")
    request = GenerationRequest(segments=(*turn, Control("<start_of_turn>model\n")))
    begun = False
    async with model.stream(request) as events:
        async for event in events:
            if isinstance(event, Delta) and not begun:
                begun = True
                meter.text_came()
    meter.reply_ended()


async def overhead(model: LoadedModel, slots: int) -> float:
    """Microseconds a step, for one round with so many slots decoding."""
    meter = Meter(model, slots)
    async with anyio.create_task_group() as tasks:
        for number in range(slots):
            tasks.start_soon(read, model, number, meter)
    assert meter.overhead is not None
    return meter.overhead * 1e6


async def main() -> None:
    """Print the median of ROUNDS rounds for 1, 8 and 32 slots."""
    print(f"the bare way: {bare_way():6.0f} us")
    with tempfile.TemporaryDirectory() as folder:
        for slots in (1, 8, 32):
            spec, options = ModelSpec(name="echo", format="echo", path=""), LoadOptions(slots=slots)
            log = Path(folder) / "worker.log"
            async with open_model("echo", spec, options, queue_limit=64, prefill_chunk=256, log=log) as model:
                figures = [await overhead(model, slots) for _ in range(ROUNDS)]
            print(f"{slots:3d} slots: {statistics.median(figures):6.0f} us a step (of {sorted(map(round, figures))})")


if __name__ == "__main__":
    anyio.run(main)
