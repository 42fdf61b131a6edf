"""How jobs come by the beginnings of their prompts: in a slot that holds them, by a fork, or behind a leader."""

from collections.abc import Sequence
from dataclasses import dataclass

from gemma_mcp.engine.backend import Step, StepResult
from gemma_mcp.engine.cache import KvCache
from gemma_mcp.engine.job import Job
from gemma_mcp.engine.placement import Beginning, Placement, Sharing
from gemma_mcp.engine.slots import Slot, whole_images
from gemma_mcp.types import ModelInfo

__all__ = ["Prefixes", "Reused"]


@dataclass
class Reused:
    """Counters since the model was opened."""

    cached_tokens: int = 0
    forks: int = 0


class Prefixes:
    """Makes the placements that `Sharing` finds come true, over several steps. A new worker gets a new one."""

    def __init__(self, cache: KvCache, info: ModelInfo, worth_sharing: int, reused: Reused) -> None:
        self._cache = cache
        self._reused = reused
        self._sharing = Sharing(cache.slots, forks=info.forks, worth=worth_sharing, settled=cache.settled)

    def place(self, job: Job, running: Sequence[Job]) -> Placement | None:
        """Where the job would begin best; None when all slots are taken."""
        return self._sharing.place(job, running)

    def begin(self, job: Job, placement: Placement) -> None:
        """Give the job its slot."""
        slot, begin = placement.slot, placement.begin
        slot.job = job
        job.admit(slot.index, begin.keep)
        if begin.source is not None or begin.leader is not None:
            self._begin_elsewhere(job, slot, begin)
            return
        job.trimming = 0 < begin.keep < len(slot.ids)
        if begin.keep < len(slot.ids):
            self._cache.trim(slot, begin.keep)
        if not job.trimming:
            self._settle(job, slot, begin.keep)

    def _begin_elsewhere(self, job: Job, slot: Slot, begin: Beginning) -> None:
        job.leader, job.position = None, 0
        if begin.leader is not None:
            job.follow(begin.leader, begin.keep)
            if slot.ids:
                self._cache.trim(slot, 0)
        elif begin.source is not None:
            job.trimming, job.position = True, begin.keep
            self._reused.forks += 1
            self._cache.fork(begin.source, slot, begin.keep)

    def advance(self, running: Sequence[Job]) -> None:
        """Let followers fork where their leaders stand now, and make checkpoints where jobs were to stop."""
        for number, job in enumerate(running):
            if job.leader is not None and not job.finished:
                self._advance_follower(job, job.leader, running[:number])
        for job in running:
            if job.ready and job.arrived():
                self._cache.save(self._slot(job))

    def _advance_follower(self, job: Job, leader: Job, earlier: Sequence[Job]) -> None:
        """A leader that is gone has left what it had; with that, the first of its followers leads the others."""
        job.post_following()
        if leader.finished or leader.slot is None:
            begin = self._sharing.join(job, earlier)
            if begin is not None:
                self._begin_elsewhere(job, self._slot(job), begin)
            else:
                job.leader = None
                self._settle(job, self._slot(job), 0)
        elif leader.ready and leader.position >= job.branch:
            self._begin_elsewhere(job, self._slot(job), Beginning(job.branch, source=self._slot(leader)))

    def commit(self, step: Step, result: StepResult) -> None:
        """Take in what forks and trims kept, and the checkpoints."""
        self._cache.made(result.saved)
        for index in (*(fork.target for fork in step.forks), *(trim.slot for trim in step.trims)):
            slot = self._cache.slots[index]
            if slot.job is None:
                slot.hold(slot.ids[: result.kept.get(index, 0)])
            elif slot.job.trimming:
                self._settle(slot.job, slot, result.kept.get(index, 0))

    def abandon(self, step: Step) -> None:
        """The step failed: nothing is taken for granted about what it touched."""
        self._cache.failed(step)
        for index in step.touched:
            slot = self._cache.slots[index]
            if slot.job is not None and slot.job.trimming:
                self._settle(slot.job, slot, 0)

    def _settle(self, job: Job, slot: Slot, kept: int) -> None:
        """It is known how much of the cache serves the job."""
        if kept < job.position:  # the window had moved on; a checkpoint there, and next time it does not matter
            job.stop_at(job.position)
        if not self.fit(job, slot, kept):
            return
        job.trimming = False
        if not job.settled:  # what it computed itself, here or in an earlier worker, was not cached
            job.settled = True
            job.cached_tokens = kept
            self._reused.cached_tokens += kept
        job.post_prefill()

    def leave(self, job: Job) -> None:
        """The job is over, or gives its slot up: what the cache holds of it stays for the next one."""
        slot = self._slot(job)
        slot.job = None
        if job.trimming:  # it holds more than is known to be valid
            self._cache.trim(slot, 0)

    def fit(self, job: Job, slot: Slot, kept: int) -> bool:
        """Whether the job can go on behind so many cached positions; if not, they are trimmed until it can.

        It needs whole images, and one token to compute, for what it samples next.
        """
        job.position = min(whole_images(job.prompt, kept), len(job.tokens) - 1)
        slot.hold(job.tokens[:kept])
        if job.position < kept:
            job.trimming = True
            self._cache.trim(slot, job.position)
        return job.position == kept

    def _slot(self, job: Job) -> Slot:
        assert job.slot is not None
        return self._cache.slots[job.slot]
