"""Requests that are cancelled at random moments: one step later the engine must hold nothing of them, every time.

Each trial sends a burst of requests to a real engine, cancels all of them at a moment chosen at random (before they
reach the queue, in the queue, while the model loads, while the prompt is read, while text is generated), and watches
/metrics. Prints how many requests were at which moment, and fails at the first request that stays:

    python -m benchmarks.cancels [--count 1000] [--seed 1] [--models echo,starter]
"""

import argparse
import collections
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.testing.engines import EngineHome
from gemma_mcp.wire import ChatCompletion, ChatCompletionRequest, ChatMessage

SETTINGS = {
    "GEMMA_MCP_LLAMACPP_CONTEXT": "2048",
    "GEMMA_MCP_LLAMACPP_SLOTS": "2",
    "GEMMA_MCP_LLAMACPP_THREADS": "1",
    "GEMMA_MCP_LLAMACPP_PREFILL_CHUNK": "32",
    "GEMMA_MCP_ENGINE_MAX_MODELS": "1",  # so that every change of the model is a load
}
MOMENTS = ("at once", "loading", "queueing", "prefill", "decode")
DONE = "done"
SECONDS = 60
"""After which a trial counts as hung."""


class StayedError(Exception):
    """A request was still there one step after it was cancelled."""


@dataclass(frozen=True)
class Figures:
    """What /metrics tells: requests that run or wait, and steps computed so far."""

    requests: int
    steps: int


class Engine:
    """The engine under test, as a client with its token sees it."""

    def __init__(self, home: EngineHome) -> None:
        state = home.state()
        headers = {"authorization": f"Bearer {state.token}"}
        self._http = httpx2.AsyncClient(base_url=state.url, headers=headers, trust_env=False, timeout=SECONDS)

    async def figures(self) -> Figures:
        """As of now."""
        text = (await self._http.get("/metrics")).text
        return Figures(
            _sum(text, "gemma_running{") + _sum(text, "gemma_waiting{"), _sum(text, "gemma_step_seconds_count{")
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _sum(text: str, name: str) -> int:
    return int(sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)))


@dataclass
class Trial:
    """A burst of requests, and when to cancel it."""

    moment: str
    model: str
    chance: random.Random

    async def run(self, pool: EnginePool, engine: Engine) -> list[str]:
        """Send, cancel, and watch. Returns at which moment each request really was. Raises StayedError."""
        seen: dict[int, str] = {}
        reached = anyio.Event()
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(4 if self.moment == "queueing" else self.chance.randint(1, 3)):
                    tasks.start_soon(self._ask, pool, number, seen, reached)
                await self._wait(reached)
                tasks.cancel_scope.cancel()
            await gone(engine, self)
        return [moment for moment in seen.values() if moment != DONE]

    async def _wait(self, reached: anyio.Event) -> None:
        if self.moment != "at once":
            await reached.wait()
        await anyio.sleep(self.chance.choice((0, 0, 0.0005, 0.002, 0.01)) * self.chance.random())

    async def _ask(self, pool: EnginePool, number: int, seen: dict[int, str], reached: anyio.Event) -> None:
        seen[number] = MOMENTS[0]
        async with pool.chat(self._request(number)) as chunks:
            async for chunk in chunks:
                seen[number] = moment_of(chunk)
                if seen[number] == self.moment:
                    reached.set()
        seen[number] = DONE
        reached.set()  # it was quicker than the cancel

    def _request(self, number: int) -> ChatCompletionRequest:
        words = " ".join(str(self.chance.randrange(1000)) for _ in range(self.chance.choice((3, 60, 250))))
        text = f"!slow {self.chance.choice((0.001, 0.003))} {words}" if self.model == "echo" else f"Repeat: {words}"
        return ChatCompletionRequest(
            model=self.model, messages=(ChatMessage(role="user", content=f"{text} {number}"),), max_tokens=200
        )


def moment_of(chunk: ChatCompletion) -> str:
    """Where in its life a request was that sent this."""
    if chunk.loading is not None:
        return "loading"
    if chunk.queue_place is not None:
        return "queueing"
    if chunk.prompt_progress is not None:
        return "prefill"
    return "decode" if any(choice.delta and choice.delta.content for choice in chunk.choices) else "at once"


async def gone(engine: Engine, trial: Trial) -> None:
    """Return when nothing runs and nothing waits. Raises StayedError if a second step begins before that.

    The engine reads of the cancel before it reads of the first question here, which was sent after it.
    """
    first = figures = await engine.figures()
    while figures.requests:
        if figures.steps > first.steps + 1:
            raise StayedError(f"{trial}: {figures.requests} requests {figures.steps - first.steps} steps later")
        figures = await engine.figures()


async def cancels(home: EngineHome, count: int, seed: int, models: Sequence[str]) -> collections.Counter[str]:
    """Cancel at least so many requests; how many of them were at each moment."""
    chance = random.Random(seed)
    hits: collections.Counter[str] = collections.Counter()
    async with home.pool() as pool:
        await pool.models()  # starts the engine
        engine = Engine(home)
        model = models[0]
        while hits.total() < count:
            moment = chance.choices(MOMENTS, (20, 6, 20, 27, 27))[0]
            if moment == "loading":
                model = models[(models.index(model) + 1) % len(models)]
            hits.update(f"{model}: {hit}" for hit in await Trial(moment, model, chance).run(pool, engine))
        await engine.close()
    return hits


async def main(count: int, seed: int, models: Sequence[str]) -> bool:
    """Run the trials in an engine of their own and print the table; whether nothing stayed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = EngineHome(Path(folder), SETTINGS)
        try:
            hits = await cancels(home, count, seed, models)
        except StayedError as error:
            print(f"FAILED: {error}")
            return False
        finally:
            await anyio.to_thread.run_sync(home.end)
    print("| model: moment of the cancel | requests |\n|---|---|")
    for moment, times in sorted(hits.items()):
        print(f"| {moment} | {times} |")
    print(f"| **all** | **{hits.total()}** |\n\nNo request stayed for more than one step.")
    print(f"{time.monotonic() - started:.0f} s, seed {seed}")
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", default="echo,starter", help="separated by commas")
    given = parser.parse_args()
    sys.exit(0 if anyio.run(main, given.count, given.seed, given.models.split(",")) else 1)
