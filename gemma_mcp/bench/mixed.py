"""The scenario of a long prompt that arrives while others read along."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import anyio

from gemma_mcp.bench.exchange import Exchange, Reply
from gemma_mcp.bench.prompts import Prompts
from gemma_mcp.bench.scenario import PROMPT_TOKENS, Figures, Metric, percentile, ungrouped
from gemma_mcp.bench.targets import Target

__all__ = ["Mixed"]


@dataclass(frozen=True)
class Mixed:
    """Streams decode; then a long prompt comes. How much do they feel of it, and how much does it wait for them?

    TPOT is here the time from one piece of a stream's text to the next, as its reader sees it: before the long prompt
    was sent, and from then until its first text.
    """

    streams: int = 4
    long: int = 4000
    prompt: int = 32
    before: int = 32

    name: ClassVar[str] = "mixed"
    restarts: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("tpot_before", "median TPOT before", "ms", "lower"),
        Metric("tpot_p99", "p99 TPOT during", "ms", "lower"),
        Metric("p99_of_before", "p99 / before", "x", "lower"),
        Metric("ttft_alone", "long TTFT, alone", "s", "lower"),
        Metric("ttft_beside", "long TTFT, beside", "s", "lower"),
        Metric("beside_of_alone", "beside / alone", "x", "lower"),
        PROMPT_TOKENS,
    )

    def describe(self) -> str:
        """What is done."""
        return f"{self.streams} streams, then a prompt of {self.long}"

    def context_tokens(self) -> int:
        """A stream may have as many tokens as the long prompt: it must not end before that has its first text."""
        return max(self.long + 1, self.prompt + self._stream_tokens())

    def slots(self) -> int:
        """The streams and the long one."""
        return self.streams + 1

    def _stream_tokens(self) -> int:
        return self.before + self.long

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """The prompt that is measured alone is another one of the same length."""
        alone = await target.completion(prompts.text(self.long, self.name, turn, "alone"), 1).run()
        streams = [
            target.completion(prompts.text(self.prompt, self.name, turn, number), self._stream_tokens())
            for number in range(self.streams)
        ]
        beside = await self._beside(streams, target.completion(prompts.text(self.long, self.name, turn), 1))
        before, during = _gaps(streams, beside)
        usual, late = statistics.median(before), percentile(during, 0.99)
        return {
            "tpot_before": usual,
            "tpot_p99": late,
            "p99_of_before": late / usual,
            "ttft_alone": alone.ttft,
            "ttft_beside": beside.ttft,
            "beside_of_alone": beside.ttft / alone.ttft,
            PROMPT_TOKENS.key: beside.prompt_tokens,
        }

    async def _beside(self, streams: Sequence[Exchange], long: Exchange) -> Reply:
        """The streams are cancelled when the long prompt has its text."""
        replies = list[Reply]()
        with ungrouped():
            async with anyio.create_task_group() as tasks:
                for stream in streams:
                    stream.enough = self.before
                    tasks.start_soon(stream.run)
                for stream in streams:
                    await stream.flowing.wait()
                replies.append(await long.run())
                tasks.cancel_scope.cancel()
        return replies[0]


def _gaps(streams: Sequence[Exchange], long: Reply) -> tuple[list[float], list[float]]:
    """Those that ended before the long prompt was sent, and those that were under way between then and its first text.

    The last one of a stream that stands still is counted as far as it went.
    """
    before, during = list[float](), list[float]()
    first = long.started + long.ttft
    for stream in streams:
        for earlier, later in pairwise([*stream.arrivals, max(first, stream.arrivals[-1])]):
            if later <= long.started:
                before.append(later - earlier)
            elif earlier < first:
                during.append(later - earlier)
    return before, during
