"""What a scenario is, and what it measures."""

import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import anyio

from gemma_mcp.bench.exchange import Exchange, Reply
from gemma_mcp.bench.prompts import Prompts
from gemma_mcp.bench.targets import Target
from gemma_mcp.errors import GemmaError

__all__ = [
    "CACHED_TOKENS",
    "PROMPT_TOKENS",
    "Better",
    "Figures",
    "Metric",
    "Scenario",
    "counts",
    "mean_ttft",
    "percentile",
    "together",
    "ungrouped",
]

Better = Literal["lower", "higher", ""]
Figures = dict[str, float]
"""Values by the keys of metrics: seconds, tokens, tokens per second, ratios."""

BOS_TOKENS = 1


@dataclass(frozen=True)
class Metric:
    """A figure. `unit` is how it is shown: times are kept in seconds. `better` is empty for what is only told."""

    key: str
    label: str
    unit: Literal["s", "ms", "tokens", "tokens/s", "x", "MB"]
    better: Better = ""


PROMPT_TOKENS = Metric("prompt_tokens", "prompt tokens", "tokens")
CACHED_TOKENS = Metric("cached_tokens", "cached tokens", "tokens")


class Scenario(Protocol):
    """Work that is done once a round by each target. Implementations are frozen dataclasses of whole numbers."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    restarts: ClassVar[bool]
    """Whether it restarts the engine, which can be done with our own only."""

    def describe(self) -> str:
        """What is done, with its numbers."""
        ...

    def context_tokens(self) -> int:
        """Prompt and reply of its longest request, roughly."""
        ...

    def slots(self) -> int:
        """Requests that it has under way at once."""
        ...

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """Do it once, with the prompts of round `turn`. Raises RemoteError."""
        ...


@contextmanager
def ungrouped() -> Generator[None]:
    """Errors of task groups come out as the first of ours in them."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException | None = group
        while isinstance(error, BaseExceptionGroup):
            ours = error.subgroup(GemmaError)
            error = ours.exceptions[0] if ours is not None else None
        if error is None:
            raise
        raise error from group


async def together(exchanges: Sequence[Exchange]) -> tuple[float, list[Reply]]:
    """Send all at once; the seconds until the last reply ended, and the replies in order."""
    replies: dict[int, Reply] = {}

    async def run(index: int, exchange: Exchange) -> None:
        replies[index] = await exchange.run()

    started = time.perf_counter()
    with ungrouped():
        async with anyio.create_task_group() as tasks:
            for index, exchange in enumerate(exchanges):
                tasks.start_soon(run, index, exchange)
    return time.perf_counter() - started, [replies[index] for index in range(len(exchanges))]


def mean_ttft(replies: Sequence[Reply]) -> float:
    """Seconds, the wait for a slot included."""
    return statistics.fmean(reply.ttft for reply in replies)


def counts(replies: Sequence[Reply]) -> Figures:
    """Prompt tokens of all of them, and how many of these the engine had in its cache."""
    return {
        PROMPT_TOKENS.key: float(sum(reply.prompt_tokens for reply in replies)),
        CACHED_TOKENS.key: float(sum(reply.cached_tokens for reply in replies)),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed, by nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-int(share * 1000) * len(ranked) // 1000) - 1))]
