"""Where a job's prompt begins: in a slot that holds some of it, as a fork of another slot, or behind another job.

A job *follows* a leader when the leader is about to compute what both need: it waits until the leader stands where
their prompts part, and forks there. That costs it nothing, since the leader has the whole step to itself meanwhile.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gemma_mcp.engine.job import Job
from gemma_mcp.engine.slots import Slot, common_prefix, reusable_prefix, whole_images

__all__ = ["Beginning", "Placement", "Sharing"]


@dataclass(frozen=True)
class Beginning:
    """`keep` leading tokens that need not be computed: from `source`, or from `leader` once it has them, or none."""

    keep: int = 0
    source: Slot | None = None
    leader: Job | None = None


@dataclass(frozen=True)
class Placement:
    """A slot for a job and how its cache begins there. Without source and leader it keeps what the slot holds."""

    slot: Slot
    begin: Beginning


class Sharing:
    """Finds the sharing. `worth`: tokens below which a fork is not worth its copy of a window and its extra step.

    `settled` says whether what a slot is said to hold is there now.
    """

    def __init__(self, slots: Sequence[Slot], *, forks: bool, worth: int, settled: Callable[[Slot], bool]) -> None:
        self._slots = slots
        self._forks = forks
        self._worth = worth
        self._settled = settled

    def place(self, job: Job, running: Sequence[Job]) -> Placement | None:
        """The slot that costs least, and how the job begins in it; None when all are taken.

        A slot that held something else gives that up: the one that was unused for longest, unless the job continues
        what another one holds.
        """
        free = [slot for slot in self._slots if slot.job is None]
        if not free:
            return None
        oldest = min(free, key=lambda slot: slot.used)
        if not job.request.reuse_prefix:
            return Placement(oldest, Beginning())
        own = self._own(job, free)
        if not self._forks or job.probation:  # a fork may be what a worker died of
            return own
        begin = self.join(job, running, own.begin.keep)
        if begin is not None:
            return Placement(oldest, begin)
        if own.slot is oldest or len(own.slot.ids) - own.begin.keep < self._worth:
            return own
        if own.begin.keep < self._worth:
            return Placement(oldest, Beginning(reusable_prefix(oldest.ids, job)))
        return Placement(oldest, Beginning(own.begin.keep, source=own.slot))

    def join(self, job: Job, running: Iterable[Job], at_hand: int = 0) -> Beginning | None:
        """A beginning from another slot or job that is worth more than `at_hand` tokens, if there is one."""
        source = self._source(job)
        leader = self._leader(job, running)
        if leader.keep - max(source.keep, at_hand) >= self._worth:
            return leader
        return source if source.keep - at_hand >= self._worth else None

    def _own(self, job: Job, free: Sequence[Slot]) -> Placement:
        placements = [Placement(slot, Beginning(reusable_prefix(slot.ids, job))) for slot in free]
        return max(placements, key=lambda placement: (placement.begin.keep, -placement.slot.used))

    def _source(self, job: Job) -> Beginning:
        others = (slot for slot in self._slots if slot.job is not job and slot.ids and self._settled(slot))
        beginnings = (Beginning(reusable_prefix(slot.ids, job), source=slot) for slot in others)
        return max(beginnings, key=lambda begin: begin.keep, default=Beginning())

    def _leader(self, job: Job, running: Iterable[Job]) -> Beginning:
        beginnings = (
            Beginning(_parting(job, other), leader=other)
            for other in running
            if other is not job and not other.finished and not other.decoding
        )
        ahead = (begin for begin in beginnings if begin.leader is not None and begin.keep > begin.leader.position)
        return max(ahead, key=lambda begin: begin.keep, default=Beginning())


def _parting(job: Job, other: Job) -> int:
    """How many leading tokens both need."""
    return whole_images(job.prompt, min(common_prefix(other.tokens, job.tokens), len(job.tokens) - 1))
