"""Scenarios of the plainest kind: one prompt, one reply, and several that have nothing in common."""

from dataclasses import dataclass
from typing import ClassVar

from gemma_mcp.bench.prompts import Prompts
from gemma_mcp.bench.scenario import CACHED_TOKENS, PROMPT_TOKENS, Figures, Metric, counts, mean_ttft, together
from gemma_mcp.bench.targets import Target

__all__ = ["Concurrency", "Decode", "Prefill"]


@dataclass(frozen=True)
class Prefill:
    """A long prompt, one token of reply."""

    prompt: int = 512

    name: ClassVar[str] = "prefill"
    restarts: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("ttft", "TTFT", "s", "lower"),
        Metric("prefill_rate", "prefill", "tokens/s", "higher"),
        PROMPT_TOKENS,
    )

    def describe(self) -> str:
        """What is done."""
        return f"{self.prompt} prompt tokens, 1 out"

    def context_tokens(self) -> int:
        """One request."""
        return self.prompt + 1

    def slots(self) -> int:
        """One."""
        return 1

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """The rate has everything in it that the caller waits for, the first token's choice too."""
        reply = await target.completion(prompts.text(self.prompt, self.name, turn), 1).run()
        return {
            "ttft": reply.ttft,
            "prefill_rate": (reply.prompt_tokens - reply.cached_tokens) / reply.ttft,
            PROMPT_TOKENS.key: reply.prompt_tokens,
        }


@dataclass(frozen=True)
class Decode:
    """A short prompt, a long reply, nothing beside it."""

    out: int = 128
    prompt: int = 32

    name: ClassVar[str] = "decode"
    restarts: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("decode_rate", "decode", "tokens/s", "higher"),
        Metric("tpot", "TPOT", "ms", "lower"),
        Metric("ttft", "TTFT", "ms", "lower"),
    )

    def describe(self) -> str:
        """What is done."""
        return f"{self.prompt} prompt tokens, {self.out} out"

    def context_tokens(self) -> int:
        """One request."""
        return self.prompt + self.out

    def slots(self) -> int:
        """One."""
        return 1

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """The rate is that of the tokens after the first one."""
        reply = await target.completion(prompts.text(self.prompt, self.name, turn), self.out).run()
        return {"decode_rate": 1 / max(reply.tpot, 1e-9), "tpot": reply.tpot, "ttft": reply.ttft}


@dataclass(frozen=True)
class Concurrency:
    """Different prompts at the same time."""

    requests: int = 8
    prompt: int = 128
    out: int = 64

    name: ClassVar[str] = "concurrency"
    restarts: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("seconds", "end to end", "s", "lower"),
        Metric("ttft", "mean TTFT", "s", "lower"),
        Metric("rate", "throughput", "tokens/s", "higher"),
        PROMPT_TOKENS,
        CACHED_TOKENS,
    )

    def describe(self) -> str:
        """What is done."""
        return f"{self.requests} different prompts of {self.prompt}, {self.out} out"

    def context_tokens(self) -> int:
        """One request."""
        return self.prompt + self.out

    def slots(self) -> int:
        """One for each."""
        return self.requests

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """All are sent at once."""
        texts = [prompts.text(self.prompt, self.name, turn, number) for number in range(self.requests)]
        seconds, replies = await together([target.completion(text, self.out) for text in texts])
        tokens = sum(reply.completion_tokens for reply in replies)
        return {"seconds": seconds, "ttft": mean_ttft(replies), "rate": tokens / seconds} | counts(replies)
