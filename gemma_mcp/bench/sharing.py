"""Scenarios of delegated work, whose prompts share most of their tokens."""

from dataclasses import dataclass
from typing import ClassVar

from gemma_mcp.bench.prompts import Prompts
from gemma_mcp.bench.scenario import CACHED_TOKENS, PROMPT_TOKENS, Figures, Metric, counts, mean_ttft, together
from gemma_mcp.bench.targets import Target

__all__ = ["Ask", "Chat", "Map"]

LOAD_TOKENS = 16
"""Of the prompt that has a restarted engine load its model."""


@dataclass(frozen=True)
class Map:
    """One instruction over many files: requests that share their beginning, sent at once."""

    requests: int = 8
    shared: int = 512
    own: int = 32
    out: int = 64

    name: ClassVar[str] = "map"
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
        return f"{self.requests} requests, {self.shared} shared + {self.own} own prompt tokens, {self.out} out"

    def context_tokens(self) -> int:
        """One request."""
        return self.shared + self.own + self.out

    def slots(self) -> int:
        """One for each."""
        return self.requests

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """The shared part is another one in each round."""
        shared = prompts.text(self.shared, self.name, turn)
        texts = [shared + prompts.text(self.own, self.name, turn, number) for number in range(self.requests)]
        seconds, replies = await together([target.completion(text, self.out) for text in texts])
        tokens = sum(reply.completion_tokens for reply in replies)
        return {"seconds": seconds, "ttft": mean_ttft(replies), "rate": tokens / seconds} | counts(replies)


@dataclass(frozen=True)
class Ask:
    """One document, questions about it; then other questions, then the first ones again."""

    questions: int = 8
    document: int = 2000
    question: int = 32
    out: int = 64

    name: ClassVar[str] = "ask"
    restarts: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("seconds", "end to end, cold", "s", "lower"),
        Metric("ttft", "mean TTFT, cold", "s", "lower"),
        Metric("ttft_new", "TTFT, new questions", "s", "lower"),
        Metric("ttft_same", "TTFT, same again", "s", "lower"),
        Metric("new_of_cold", "new / cold", "x", "lower"),
        Metric("same_of_cold", "same / cold", "x", "lower"),
        PROMPT_TOKENS,
        CACHED_TOKENS,
    )

    def describe(self) -> str:
        """What is done."""
        return f"a document of {self.document}, {self.questions} questions of {self.question} at once, {self.out} out"

    def context_tokens(self) -> int:
        """One request."""
        return self.document + self.question + self.out

    def slots(self) -> int:
        """One for each question."""
        return self.questions

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """Cached tokens are those of the first, cold time: the sharing among the questions."""
        document = prompts.text(self.document, self.name, turn)
        first = [document + self._question(prompts, turn, "first", number) for number in range(self.questions)]
        other = [document + self._question(prompts, turn, "other", number) for number in range(self.questions)]
        seconds, cold = await together([target.completion(text, self.out) for text in first])
        _, new = await together([target.completion(text, self.out) for text in other])
        _, same = await together([target.completion(text, self.out) for text in first])
        ttft, ttft_new, ttft_same = mean_ttft(cold), mean_ttft(new), mean_ttft(same)
        return {
            "seconds": seconds,
            "ttft": ttft,
            "ttft_new": ttft_new,
            "ttft_same": ttft_same,
            "new_of_cold": ttft_new / ttft,
            "same_of_cold": ttft_same / ttft,
        } | counts(cold)

    def _question(self, prompts: Prompts, turn: int, which: str, number: int) -> str:
        return prompts.text(self.question, self.name, turn, which, number)


@dataclass(frozen=True)
class Chat:
    """A conversation goes on after the engine was restarted."""

    history: int = 2000
    new: int = 24
    out: int = 32

    name: ClassVar[str] = "chat"
    restarts: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("ttft", "TTFT, cold", "s", "lower"),
        Metric("ttft_next", "next turn", "s", "lower"),
        Metric("ttft_restarted", "after a restart", "s", "lower"),
        Metric("next_of_cold", "next / cold", "x", "lower"),
        Metric("restarted_of_cold", "restarted / cold", "x", "lower"),
        PROMPT_TOKENS,
        CACHED_TOKENS,
    )

    def describe(self) -> str:
        """What is done."""
        return f"history {self.history}, turns of {self.new}, {self.out} out; load after a restart not counted"

    def context_tokens(self) -> int:
        """The last turn, and what templates add."""
        return self.history + 3 * (self.new + self.out) + 64

    def slots(self) -> int:
        """One."""
        return 1

    async def measure(self, target: Target, prompts: Prompts, turn: int) -> Figures:
        """Cached tokens are those after the restart. The whole history is the first message: it is cold once."""
        assert target.home is not None
        said = [{"role": "user", "content": prompts.text(self.history, self.name, turn)}]
        cold = await target.chat(said, self.out).run()
        said += self._turn(prompts, turn, 1)
        following = await target.chat(said, self.out).run()
        await target.home.restart()
        await target.completion(prompts.text(LOAD_TOKENS, self.name, turn, "load"), 1).run()
        said += self._turn(prompts, turn, 2)
        restarted = await target.chat(said, self.out).run()
        return {
            "ttft": cold.ttft,
            "ttft_next": following.ttft,
            "ttft_restarted": restarted.ttft,
            "next_of_cold": following.ttft / cold.ttft,
            "restarted_of_cold": restarted.ttft / cold.ttft,
        } | counts([restarted])

    def _turn(self, prompts: Prompts, turn: int, number: int) -> list[dict[str, str]]:
        """The assistant's words are made up, and short: what it said itself may hold bytes that are no text."""
        answer = prompts.text(self.new, self.name, turn, "answer", number)
        question = prompts.text(self.new, self.name, turn, "question", number)
        return [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
