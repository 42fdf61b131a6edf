"""Continuous batching. All state lives here, on the event loop, without threads or locks.

One turn of the loop: *admit* waiting jobs to free slots, *plan* the rows of a step, *execute* it in the worker,
*commit* what came back. A worker that dies loses only its caches: every job's tokens are known here, so the next worker
computes them again. Each job of the fatal step then gets steps of its own until it is past that point, so that a job
which kills workers is found out without its neighbours: it is refused, now and when it comes again.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from gemma_mcp.engine.backend import Step, StepResult, TokenRow
from gemma_mcp.engine.background import background
from gemma_mcp.engine.cache import KvCache
from gemma_mcp.engine.host import AsyncExecutor
from gemma_mcp.engine.job import Job
from gemma_mcp.engine.pace import Pace
from gemma_mcp.engine.plan import plan_guesses, plan_rows, row_length
from gemma_mcp.engine.prefixes import Prefixes, Reused
from gemma_mcp.engine.queueing import MOST_PASSED, Intake, Signal, encode
from gemma_mcp.engine.slots import Slot
from gemma_mcp.engine.stats import SchedulerStats
from gemma_mcp.errors import GemmaError, OutOfMemoryError, WorkerDiedError, restore
from gemma_mcp.types import Event, GenerationRequest

__all__ = ["DECODE_STRETCH", "Scheduler"]

DECODE_STRETCH = 2.7
"""See Pace."""

MOST_PREEMPTED = 2
"""How often a job gives its slot up to others before it may keep it."""

WORTH_SHARING = 32
"""Tokens; a fork copies a window and makes its job wait for a step."""


class Scheduler:
    """Serves requests on one model. `run` does the work; `stream` is the door."""

    def __init__(
        self,
        *,
        queue_limit: int,
        prefill_chunk: int,
        checkpoint_bytes: int = 0,
        decode_stretch: float = DECODE_STRETCH,
        worth_sharing: int = WORTH_SHARING,
        speculate: bool = True,
    ) -> None:
        self._counters = SchedulerStats()
        self._pace = Pace(prefill_chunk, decode_stretch)
        self._checkpoint_bytes = checkpoint_bytes
        self._worth_sharing = worth_sharing
        self._speculate = speculate
        self._running: list[Job] = []
        self._parked: list[Job] = []
        """Those that a full cache left no room for."""
        self._slots: list[Slot] = []
        self._reused = Reused()
        self._clock = itertools.count(1)
        self._work = Signal()
        self._executor: AsyncExecutor | None = None
        self._stepping: Sequence[Job] = ()
        self._forking: Sequence[Job] = ()
        self._took: Sequence[Job] = ()
        self._loop = asyncio.get_running_loop()
        self._opening = 0
        self._intake = Intake(
            queue_limit=queue_limit, free_slots=self._free_slots, withdraw=self._interrupt, work=self._work
        )

    def stream(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """The request's events; leaving the block ends it. See queueing.Intake.stream for what it raises."""
        return self._intake.stream(request)

    async def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each of the texts has. Raises what a worker that cannot be had raises."""
        return await self._intake.count(texts)

    @property
    def stats(self) -> SchedulerStats:
        """Counters, brought up to date."""
        self._counters.slots = len(self._slots)
        self._counters.cached_tokens, self._counters.forks = self._reused.cached_tokens, self._reused.forks
        self._counters.running = len(self._running)
        self._counters.waiting = len(self._intake.waiting) + len(self._parked)
        self._counters.requests = self._intake.requests
        return self._counters

    async def wanted(self) -> None:
        """Return when there is anything to do for a worker."""
        while not self._intake.wanted:
            await self._work.next()

    async def run(self, executor: AsyncExecutor) -> None:
        """Serve with this worker until it dies."""
        self._cache = KvCache(executor.info, self._checkpoint_bytes)
        self._slots = self._cache.slots
        self._prefixes = Prefixes(self._cache, executor.info, self._worth_sharing, self._reused)
        self._executor = executor
        self._intake.open(executor)
        try:
            await self._encode_again(executor)
            while True:
                await self._turn(executor)
        except WorkerDiedError:
            self._forget_worker()
            self._bury()
        finally:
            self._forget_worker()

    def refuse(self, error: GemmaError) -> None:
        """No worker can be had: everybody who waits for one is told so."""
        for job in (*self._running, *self._parked):
            job.fail(error)
        self._running.clear()
        self._parked.clear()
        self._intake.refuse(error)

    def _forget_worker(self) -> None:
        self._executor = None
        self._intake.suspend()

    def _free_slots(self) -> int:
        return sum(slot.job is None for slot in self._slots) - self._opening

    def _interrupt(self, job: Job) -> None:
        """A running job is over: a step that computes its prompt need not go on."""
        if job in self._stepping and not job.decoding and self._executor is not None:
            self._executor.interrupt()

    async def _turn(self, executor: AsyncExecutor) -> None:
        started = time.perf_counter()
        self._sweep()
        await self._admit(executor)
        self._prefixes.advance(self._running)
        step = self._plan(executor)
        if step.empty:
            await self._rest(executor)
            return
        self._stepping = self._jobs_of(row.slot for row in step.rows)
        self._forking = self._jobs_of(fork.target for fork in step.forks)
        try:
            self._commit(step, await self._execute(executor, step))
        except WorkerDiedError:
            raise
        except GemmaError as error:
            self._abandon(step, error)
        self._stepping = self._forking = ()
        self._note_time(step, time.perf_counter() - started)

    def _note_time(self, step: Step, seconds: float) -> None:
        self._counters.step_seconds += seconds
        rows = [row for row in step.rows if isinstance(row, TokenRow)]
        if len(rows) == len(step.rows):
            decoding = sum(len(row.tokens) for row in rows if len(row.tokens) == 1 + row.draft)
            self._pace.took(decoding, sum(len(row.tokens) for row in rows) - decoding, seconds)

    async def _execute(self, executor: AsyncExecutor, step: Step) -> StepResult:
        async with self._intake.alone:
            return await executor.step(step)

    async def _rest(self, executor: AsyncExecutor) -> None:
        """Until there is work. Raises WorkerDiedError when the worker dies meanwhile."""
        if any(job.finished for job in self._running):
            return
        async with background(partial(self._wake_at_death, executor)):
            await self._work.next()
        if not executor.alive:
            raise WorkerDiedError("The idle worker ended.")

    async def _wake_at_death(self, executor: AsyncExecutor) -> None:
        await executor.died()
        self._work.set()

    # --- admit ------------------------------------------------------------------------------------------------

    async def _admit(self, executor: AsyncExecutor) -> None:
        waiting = self._intake.waiting
        while waiting and not any(job.probation for job in self._running):
            placement = self._prefixes.place(waiting[0], self._running)
            if placement is None:
                if not self._give_way():
                    break
                continue
            job = waiting.popleft()
            if await self._open(executor, placement.slot, job):
                placement.slot.used = next(self._clock)
                self._running.append(job)
                self._prefixes.begin(job, placement)
            else:
                self._intake.release_media(job)
            self._intake.report_places()

    async def _open(self, executor: AsyncExecutor, slot: Slot, job: Job) -> bool:
        """Set the slot's sampler up. False when the job's options are refused, or it was cancelled meanwhile."""
        self._stepping = (job,)
        self._opening = 1  # it has left the queue, and its slot is as good as taken
        try:
            async with self._intake.alone:
                await executor.open(slot.index, job.options)
        except WorkerDiedError:
            self._intake.put_back([job])
            raise
        except GemmaError as error:
            job.fail(error)
        finally:
            self._opening = 0
        self._stepping = ()
        return not job.finished

    # --- plan -------------------------------------------------------------------------------------------------

    def _plan(self, executor: AsyncExecutor) -> Step:
        ready = [job for job in self._running if job.ready]
        on_probation = [job for job in ready if job.probation]
        jobs = on_probation or ready
        budget = self._pace.budget(sum(job.decoding for job in jobs))
        return self._cache.step(plan_rows(jobs, executor.info.step_tokens, budget, self._guesses(executor, jobs)))

    def _guesses(self, executor: AsyncExecutor, jobs: Sequence[Job]) -> dict[int, list[int]]:
        """None beside prompts: these make better use of the step."""
        if not self._speculate or not all(job.decoding for job in jobs):
            return {}
        most = min(executor.info.draft_tokens, executor.info.step_tokens - len(jobs))
        return plan_guesses(jobs, most, self._pace.seconds)

    # --- commit -----------------------------------------------------------------------------------------------

    def _commit(self, step: Step, result: StepResult) -> None:
        self._counters.steps += 1
        self._counters.compute_seconds += result.compute_seconds
        self._counters.sample_seconds += result.sample_seconds
        self._prefixes.commit(step, result)
        if result.status == "done":
            self._commit_rows(step, result)
            self._commit_tokens(result)
        else:
            self._commit_partly(step, result)

    def _commit_rows(self, step: Step, result: StepResult) -> None:
        chosen = {output.slot: len(output.tokens) for output in result.outputs}
        for row in step.rows:
            slot, job = self._slot_and_job(row.slot)
            if isinstance(row, TokenRow) and row.draft:
                self._commit_guesses(row, slot, job, max(0, chosen[row.slot] - 1))
                continue
            start, end = job.position, job.position + row_length(job, row)
            slot.ids += job.tokens[start:end]
            job.position = end
            if end <= len(job.prompt.ids):
                self._counters.prompt_tokens += end - start
                job.post_prefill()

    def _commit_guesses(self, row: TokenRow, slot: Slot, job: Job, right: int) -> None:
        job.guesser.happened(row.draft, right)
        self._counters.guessed_tokens += row.draft
        self._counters.right_tokens += right
        count = len(row.tokens) - row.draft + right
        slot.ids += row.tokens[:count]
        job.position += count

    def _commit_tokens(self, result: StepResult) -> None:
        """The readers get their text while the worker computes the next step."""
        self._took = [self._slot_and_job(output.slot)[1] for output in result.outputs]
        for output, job in zip(result.outputs, self._took, strict=True):
            if output.error is not None and not job.finished:
                job.fail(restore(output.error))
            for sampled in output.tokens:
                if job.finished:
                    break
                self._counters.completion_tokens += 1
                reason = job.take(sampled)
                if reason is not None:
                    job.finish(reason)
            if job.probation and len(job.tokens) > job.probation:
                job.probation = 0
        self._loop.call_soon(self._post_taken)

    def _post_taken(self) -> None:
        for job in self._took:
            job.post_taken()
        self._took = ()

    def _commit_partly(self, step: Step, result: StepResult) -> None:
        """Nothing was sampled; the worker says how far each slot's cache is valid."""
        for row in step.rows:
            slot, job = self._slot_and_job(row.slot)
            kept = min(result.kept.get(row.slot, 0), job.position + row_length(job, row))
            self._prefixes.fit(job, slot, kept)
        if result.status == "no_room" and not self._cache.drop_idle():
            self._park_youngest()

    def _abandon(self, step: Step, error: GemmaError) -> None:
        """The pass failed: its jobs end with the error, and nothing is taken for granted about the slots it touched."""
        for job in self._stepping:
            job.fail(error)
        self._prefixes.abandon(step)

    def _sweep(self) -> None:
        """Jobs that are over leave their slots, which makes room for those that had to give way."""
        over = [job for job in self._running if job.finished]
        for job in over:
            self._leave(job)
            self._intake.release_media(job)
        if self._parked and (over or not self._running):
            for job in self._parked:
                if job.finished:
                    self._intake.release_media(job)
            self._intake.put_back(self._parked)
            self._parked.clear()

    def _leave(self, job: Job) -> None:
        self._running.remove(job)
        assert job.slot is not None
        self._slots[job.slot].used = next(self._clock)
        self._prefixes.leave(job)

    def _preempt(self, job: Job) -> None:
        """It gives up its slot. Its tokens are known, so it goes on later as if nothing had been."""
        self._leave(job)
        job.lose_cache()
        job.preempted += 1
        self._counters.preemptions += 1

    def _give_way(self) -> bool:
        """Let the youngest bulk job go for one that people wait for. Says whether there was one."""
        may_go = [job for job in self._running if job.bulk and not job.finished and not _has_waited(job)]
        if not may_go or self._intake.waiting[0].bulk:
            return False
        youngest = may_go[-1]
        self._preempt(youngest)
        self._intake.postpone(youngest)
        return True

    def _park_youngest(self) -> None:
        """There is no room for all: the youngest, of the bulk if there is any, waits until another one is over."""
        going_on = [job for job in self._running if not job.finished]
        youngest = max(going_on, key=lambda job: (job.bulk, going_on.index(job)), default=None)
        if youngest is None:
            return
        if len(going_on) > 1:
            self._preempt(youngest)
            self._parked.append(youngest)
            return
        youngest.fail(
            OutOfMemoryError("The KV cache is full.", "Try again, or raise llamacpp.context in the configuration.")
        )

    # --- a worker's death -------------------------------------------------------------------------------------

    def _bury(self) -> None:
        """Put every job back in the queue, those of the fatal step first and on probation."""
        self._counters.restarts += 1
        fatal = (*self._stepping, *self._forking)
        suspects = [job for job in (*self._running, *self._intake.waiting) if job in fatal]
        for job in suspects:
            job.probation = len(job.tokens)
            job.strikes += 1
        if len(suspects) == 1 and suspects[0].strikes > 1:
            self._intake.condemn(suspects[0])
        back = sorted(self._running, key=lambda job: job not in fatal)
        for job in back:
            job.lose_cache()
        self._intake.put_back((*back, *self._parked))
        self._running.clear()
        self._parked.clear()
        self._stepping = self._forking = ()

    async def _encode_again(self, executor: AsyncExecutor) -> None:
        """Images that an earlier worker prepared died with it."""
        for job in list(self._intake.waiting):
            if job.prompt.spans and not job.finished:
                self._stepping = (job,)
                async with self._intake.alone:
                    job.prompt = await encode(executor, job.request)
                job.prepared_by = executor
                if job.finished:  # its reader left meanwhile
                    self._intake.release_media(job)
        self._stepping = ()

    # --- small things -----------------------------------------------------------------------------------------

    def _jobs_of(self, slots: Iterable[int]) -> list[Job]:
        return [job for slot in slots if (job := self._slots[slot].job) is not None]

    def _slot_and_job(self, index: int) -> tuple[Slot, Job]:
        slot = self._slots[index]
        assert slot.job is not None
        return slot, slot.job


def _has_waited(job: Job) -> bool:
    """Whether a bulk job was passed over so often that it keeps its slot now."""
    return job.preempted >= MOST_PREEMPTED or job.passed >= MOST_PASSED
