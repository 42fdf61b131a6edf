"""The KV cache's slots: what each still holds, and how much of that serves a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gemma_mcp.engine.backend import Spare
from gemma_mcp.engine.job import Job, Prompt

__all__ = ["Slot", "common_prefix", "reusable_prefix", "whole_images"]


@dataclass
class Slot:
    """A place in the KV cache. `ids` stand in it whether or not a job uses it now; `used` orders slots by last use.

    `checkpoints`: their numbers, by the positions at which they were made.
    """

    index: int
    ids: list[int] = field(default_factory=list[int])
    job: Job | None = None
    used: int = 0
    checkpoints: dict[int, int] = field(default_factory=dict[int, int])

    def hold(self, ids: list[int]) -> None:
        """It holds these now, which are the beginning of what it held, or of what its checkpoints were made from."""
        self.ids = ids
        if self.checkpoints:
            self.checkpoints = {at: number for at, number in self.checkpoints.items() if at <= len(ids)}

    def begin_as(self, other: "Slot", keep: int) -> None:
        """It holds the first `keep` positions of another one."""
        self.checkpoints = dict(other.checkpoints)
        self.hold(other.ids[:keep])

    def spare(self, keep: int) -> Spare | None:
        """The last checkpoint at or before so many positions."""
        at = max((at for at in self.checkpoints if at <= keep), default=0)
        return Spare(self.checkpoints[at], at) if at else None


def reusable_prefix(cached: Sequence[int], job: Job) -> int:
    """How many cached positions serve the job: at least one token is left to compute, and no image is split."""
    return whole_images(job.prompt, min(common_prefix(cached, job.tokens), len(job.tokens) - 1))


def whole_images(prompt: Prompt, keep: int) -> int:
    """As many leading positions as `keep`, or fewer so that no image is split."""
    return next((span.start for span in prompt.spans if span.start < keep < span.start + span.length), keep)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading items are equal. Halves at a time: comparing slices is a hundred times faster than items."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
