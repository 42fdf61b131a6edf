"""The KV cache's slots: what each still holds, and which one suits a prompt best."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gemma_mcp.engine.job import Job, Prompt

__all__ = ["Placement", "Slot", "choose_slot", "reusable_prefix", "whole_images"]


@dataclass
class Slot:
    """A place in the KV cache. `ids` stand in it whether or not a job uses it now; `used` orders slots by last use."""

    index: int
    ids: list[int] = field(default_factory=list[int])
    job: Job | None = None
    used: int = 0


@dataclass(frozen=True)
class Placement:
    """A slot for a job, and how many leading tokens of its prompt are in that slot already."""

    slot: Slot
    keep: int


def choose_slot(slots: Sequence[Slot], job: Job) -> Placement | None:
    """The free slot that shares the longest prefix with the job; among equals the one unused for longest."""
    free = [slot for slot in slots if slot.job is None]
    if not free:
        return None
    if not job.request.reuse_prefix:
        return Placement(min(free, key=lambda slot: slot.used), 0)
    placements = [Placement(slot, reusable_prefix(slot.ids, job.tokens, job.prompt)) for slot in free]
    return max(placements, key=lambda placement: (placement.keep, -placement.slot.used))


def reusable_prefix(cached: Sequence[int], tokens: Sequence[int], prompt: Prompt) -> int:
    """How many cached positions serve the prompt: at least one token is left to compute, and no image is split."""
    return whole_images(prompt, min(_common_prefix(cached, tokens), len(tokens) - 1))


def whole_images(prompt: Prompt, keep: int) -> int:
    """As many leading positions as `keep`, or fewer so that no image is split."""
    return next((span.start for span in prompt.spans if span.start < keep < span.start + span.length), keep)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
