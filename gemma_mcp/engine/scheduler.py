"""Continuous batching. All state lives here, on the event loop, without threads or locks.

One turn of the loop: *admit* waiting jobs to free slots, *plan* the rows of a step, *execute* it in the worker,
*commit* what came back. A worker that dies loses only its caches: every job's tokens are known here, so the next worker
computes them again. Each job of the fatal step then gets steps of its own until it is past that point, so that a job
which kills workers is found out without its neighbours: it is refused, now and when it comes again.
"""

import asyncio
import hashlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import msgspec

from gemma_mcp.engine.backend import MediaRow, Row, Step, StepResult, TokenRow, Trim
from gemma_mcp.engine.background import background
from gemma_mcp.engine.host import AsyncExecutor
from gemma_mcp.engine.job import Job, Prompt
from gemma_mcp.engine.plan import plan_rows
from gemma_mcp.engine.slots import Slot, choose_slot
from gemma_mcp.errors import (
    ContextOverflowError,
    DeadlineError,
    GemmaError,
    OutOfMemoryError,
    QueueFullError,
    WorkerDiedError,
)
from gemma_mcp.types import Event, GenerationRequest, Media, Queued

__all__ = ["Scheduler", "SchedulerStats"]

ENCODE_ATTEMPTS = 2
"""A prompt whose encoding a worker did not survive is tried once more: it may have been somebody else's fault."""


@dataclass
class SchedulerStats:
    """Counters since the model was opened; `running` and `waiting` are of this moment, seconds are sums."""

    slots: int = 0
    running: int = 0
    waiting: int = 0
    requests: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    restarts: int = 0
    step_seconds: float = 0.0
    compute_seconds: float = 0.0
    sample_seconds: float = 0.0


class _Change:
    """A worker came, or cannot be had."""

    def __init__(self) -> None:
        self.happened = anyio.Event()
        self.error: GemmaError | None = None


class Scheduler:
    """Serves requests on one model. `run` does the work; `stream` is the door."""

    def __init__(self, *, queue_limit: int, prefill_chunk: int) -> None:
        self.stats = SchedulerStats()
        self._queue_limit = queue_limit
        self._prefill_chunk = prefill_chunk
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._slots: list[Slot] = []
        self._trims: dict[int, int] = {}
        self._arriving = 0
        self._clock = itertools.count(1)
        self._work = anyio.Event()
        self._executor: AsyncExecutor | None = None
        self._change = _Change()
        self._stepping: frozenset[Job] = frozenset()
        self._condemned: set[bytes] = set()

    # --- the door ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncGenerator[AsyncIterator[Event]]:
        """The request's events; leaving the block ends it.

        Raises QueueFullError, ContextOverflowError or RequestError on entering; DeadlineError, when time is up before
        there is any text, and the worker's errors while iterating.
        """
        self._check_room(request)
        job = await self._accept_in_time(request)
        timer = self._start_timer(job)
        try:
            yield self._events(job)
        finally:
            if timer is not None:
                timer.cancel()
            self._cancel(job)
            job.events.close()

    def _check_room(self, request: GenerationRequest) -> None:
        if self._condemned and _digest(request) in self._condemned:
            raise _verdict()
        free = sum(slot.job is None for slot in self._slots)
        if len(self._waiting) + self._arriving >= self._queue_limit + free:
            raise QueueFullError(self._queue_limit)

    async def _accept_in_time(self, request: GenerationRequest) -> Job:
        self._arriving += 1
        self._work.set()
        try:
            with anyio.move_on_after(request.deadline_seconds):
                return await self._accept(request)
        finally:
            self._arriving -= 1
        raise DeadlineError("Time was up while the model was being prepared.", "Try again: it goes on loading.")

    async def _accept(self, request: GenerationRequest) -> Job:
        executor, prompt = await self._encode(request)
        context_length = executor.info.context_length
        wanted = request.max_tokens or 1
        if len(prompt.ids) + wanted > context_length:
            executor.release([span.media for span in prompt.spans])
            raise ContextOverflowError(len(prompt.ids), wanted, context_length)
        job = Job(request, prompt, context_length)
        self.stats.requests += 1
        self._waiting.append(job)
        self._report_places()
        self._work.set()
        return job

    async def _encode(self, request: GenerationRequest) -> tuple[AsyncExecutor, Prompt]:
        for attempt in itertools.count(1):
            executor = await self._current_executor()
            try:
                # Images stay prepared in the worker until they are released, so their handles must not get lost.
                with anyio.CancelScope(shield=any(isinstance(s, Media) for s in request.segments)):
                    return executor, Prompt.assemble(await executor.encode(request.segments))
            except WorkerDiedError:
                if attempt == ENCODE_ATTEMPTS:
                    self._condemned.add(_digest(request))
                    raise _verdict() from None
        raise AssertionError  # pragma: no cover - count() does not end

    async def _current_executor(self) -> AsyncExecutor:
        while self._executor is None:
            change = self._change
            await change.happened.wait()
            if change.error is not None:
                raise change.error
        return self._executor

    async def _events(self, job: Job) -> AsyncIterator[Event]:
        async for event in job.events:
            if isinstance(event, GemmaError):
                raise event
            yield event

    def _start_timer(self, job: Job) -> asyncio.TimerHandle | None:
        seconds = job.request.deadline_seconds
        if seconds is None:
            return None
        return asyncio.get_running_loop().call_later(seconds, self._expire, job)

    def _expire(self, job: Job) -> None:
        if job.finished:
            return
        if job.completion_tokens:
            job.finish("deadline")
        else:
            job.fail(_too_late(job))
        self._withdraw(job)

    def _cancel(self, job: Job) -> None:
        if not job.finished:
            job.close()
            self._withdraw(job)

    def _withdraw(self, job: Job) -> None:
        """A finished job leaves the queue at once, a slot when the step that computes it is over."""
        if job in self._waiting:
            self._waiting.remove(job)
            self._release_media(job)
            self._report_places()
            self._count()
        elif job in self._stepping and not job.decoding and self._executor is not None:
            self._executor.interrupt()
        self._work.set()

    # --- the loop ---------------------------------------------------------------------------------------------

    async def wanted(self) -> None:
        """Return when there is anything to do for a worker."""
        while not (self._waiting or self._running or self._arriving):
            self._work = anyio.Event()
            await self._work.wait()

    async def run(self, executor: AsyncExecutor) -> None:
        """Serve with this worker until it dies."""
        self._slots = [Slot(index) for index in range(executor.info.slots)]
        self.stats.slots = len(self._slots)
        self._executor = executor
        self._announce()
        try:
            await self._encode_again(executor)
            while True:
                await self._turn(executor)
        except WorkerDiedError:
            self._executor = None
            self._bury()
        finally:
            self._executor = None

    def refuse(self, error: GemmaError) -> None:
        """No worker can be had: everybody who waits for one is told so."""
        for job in (*self._running, *self._waiting):
            job.fail(error)
        self._running.clear()
        self._waiting.clear()
        self._count()
        self._announce(error)

    async def _turn(self, executor: AsyncExecutor) -> None:
        self._sweep()
        await self._admit(executor)
        step = self._plan(executor)
        if not step.rows and not step.trims:
            await self._rest(executor)
            return
        self._stepping = frozenset(self._jobs_of(step.rows))
        try:
            self._commit(step, await executor.step(step))
        except WorkerDiedError:
            raise
        except GemmaError as error:
            self._abandon(step, error)
        self._stepping = frozenset()

    async def _rest(self, executor: AsyncExecutor) -> None:
        """Until there is work. Raises WorkerDiedError when the worker dies meanwhile."""
        if any(job.finished for job in self._running):
            return
        self._work = anyio.Event()
        async with background(partial(self._wake_at_death, executor)):
            await self._work.wait()
        if not executor.alive:
            raise WorkerDiedError("The idle worker ended.")

    async def _wake_at_death(self, executor: AsyncExecutor) -> None:
        await executor.died()
        self._work.set()

    # --- admit ------------------------------------------------------------------------------------------------

    async def _admit(self, executor: AsyncExecutor) -> None:
        admitted = False
        while self._waiting and not any(job.probation for job in self._running):
            placement = choose_slot(self._slots, self._waiting[0])
            if placement is None:
                break
            admitted = True
            job = self._waiting.popleft()
            if await self._open(executor, placement.slot, job):
                self._place(job, placement.slot, placement.keep)
            else:
                self._release_media(job)
        if admitted:
            self._report_places()
            self._count()

    async def _open(self, executor: AsyncExecutor, slot: Slot, job: Job) -> bool:
        """Set the slot's sampler up. False when the job's options are refused, or it was cancelled meanwhile."""
        try:
            await executor.open(slot.index, job.options)
        except WorkerDiedError:
            self._waiting.appendleft(job)
            raise
        except GemmaError as error:
            job.fail(error)
        return not job.finished

    def _place(self, job: Job, slot: Slot, keep: int) -> None:
        slot.job = job
        slot.used = next(self._clock)
        self._running.append(job)
        job.admit(slot.index, keep)
        job.trimming = 0 < keep < len(slot.ids)
        if keep < len(slot.ids):
            self._trims[slot.index] = keep
        if not job.trimming:
            self._settle(job, slot, keep)

    def _settle(self, job: Job, slot: Slot, kept: int) -> None:
        """It is known how much of the cache serves the job."""
        job.trimming = False
        job.position = kept
        job.cached_tokens = max(job.cached_tokens, min(kept, len(job.prompt.ids)))
        del slot.ids[kept:]
        self.stats.cached_tokens += kept
        job.post_prefill()

    # --- plan -------------------------------------------------------------------------------------------------

    def _plan(self, executor: AsyncExecutor) -> Step:
        trims = tuple(Trim(slot, keep) for slot, keep in self._trims.items())
        self._trims.clear()
        ready = [job for job in self._running if not job.trimming and not job.finished]
        on_probation = [job for job in ready if job.probation]
        rows = plan_rows(on_probation or ready, executor.info.step_tokens, self._prefill_chunk)
        return Step(trims=trims, rows=rows)

    # --- commit -----------------------------------------------------------------------------------------------

    def _commit(self, step: Step, result: StepResult) -> None:
        self.stats.steps += 1
        self.stats.compute_seconds += result.compute_seconds
        self.stats.sample_seconds += result.sample_seconds
        self._commit_trims(step, result)
        if result.status == "done":
            self._commit_rows(step)
            self._commit_tokens(result)
        else:
            self._commit_partly(step, result)

    def _commit_trims(self, step: Step, result: StepResult) -> None:
        for trim in step.trims:
            slot = self._slots[trim.slot]
            if slot.job is None:
                slot.ids = slot.ids[: result.kept.get(trim.slot, 0)]
            elif slot.job.trimming:
                self._settle(slot.job, slot, result.kept.get(trim.slot, 0))

    def _commit_rows(self, step: Step) -> None:
        for row in step.rows:
            slot, job = self._slot_and_job(row.slot)
            count = _row_length(job, row)
            end = job.position + count
            slot.ids += job.tokens[job.position : end]
            job.position = end
            if end <= len(job.prompt.ids):
                self.stats.prompt_tokens += count
                job.post_prefill()

    def _commit_tokens(self, result: StepResult) -> None:
        for output in result.outputs:
            _, job = self._slot_and_job(output.slot)
            for sampled in output.tokens:
                if job.finished:
                    break
                self.stats.completion_tokens += 1
                reason = job.take(sampled)
                if reason is not None:
                    job.finish(reason)
            if job.probation and len(job.tokens) > job.probation:
                job.probation = 0

    def _commit_partly(self, step: Step, result: StepResult) -> None:
        """Nothing was sampled; the worker says how far each slot's cache is valid."""
        for row in step.rows:
            slot, job = self._slot_and_job(row.slot)
            kept = min(result.kept.get(row.slot, 0), job.position + _row_length(job, row))
            slot.ids = job.tokens[:kept]
            job.position = kept
        if result.status == "no_room" and not self._evict_idle():
            self._fail_youngest()

    def _abandon(self, step: Step, error: GemmaError) -> None:
        """The pass failed: its jobs end with the error, and nothing is taken for granted about the slots it touched."""
        for job in self._stepping:
            job.fail(error)
        for index in {row.slot for row in step.rows} | {trim.slot for trim in step.trims}:
            slot = self._slots[index]
            self._trims[index] = 0
            if slot.job is not None and slot.job.trimming:
                self._settle(slot.job, slot, 0)
            slot.ids = []

    def _evict_idle(self) -> bool:
        """Drop what unused slots still hold. Says whether that freed anything."""
        idle = [slot for slot in self._slots if slot.job is None and slot.ids]
        for slot in idle:
            slot.ids = []
            self._trims[slot.index] = 0
        return bool(idle)

    def _fail_youngest(self) -> None:
        youngest = self._running[-1]
        youngest.fail(
            OutOfMemoryError("The KV cache is full.", "Try again, or raise llamacpp.context in the configuration.")
        )

    def _sweep(self) -> None:
        """Jobs that are over leave their slots; what the cache holds of them stays for the next one."""
        over = [job for job in self._running if job.finished]
        for job in over:
            self._running.remove(job)
            assert job.slot is not None
            slot = self._slots[job.slot]
            slot.job = None
            slot.used = next(self._clock)
            if job.trimming:  # its slot holds more than is known to be valid
                slot.ids = []
                self._trims[slot.index] = 0
            self._release_media(job)
        if over:
            self._count()

    # --- a worker's death -------------------------------------------------------------------------------------

    def _bury(self) -> None:
        """Put every job back in the queue, those of the fatal step first and on probation."""
        self.stats.restarts += 1
        suspects = [job for job in self._running if job in self._stepping]
        for job in suspects:
            job.probation = len(job.tokens)
            job.strikes += 1
        if len(suspects) == 1 and suspects[0].strikes > 1:
            self._condemn(suspects[0])
        others = [job for job in self._running if job not in self._stepping]
        self._waiting = deque(job for job in (*suspects, *others, *self._waiting) if not job.finished)
        for job in self._waiting:
            job.lose_cache()
        self._running.clear()
        self._stepping = frozenset()
        self._trims.clear()
        self._report_places()
        self._count()

    def _condemn(self, job: Job) -> None:
        self._condemned.add(_digest(job.request))
        job.fail(_verdict())

    async def _encode_again(self, executor: AsyncExecutor) -> None:
        """Images that an earlier worker prepared died with it."""
        for job in list(self._waiting):
            if job.prompt.spans and not job.finished:
                job.prompt = Prompt.assemble(await executor.encode(job.request.segments))

    # --- small things -----------------------------------------------------------------------------------------

    def _jobs_of(self, rows: Iterable[Row]) -> Iterable[Job]:
        jobs = (self._slots[row.slot].job for row in rows)
        return (job for job in jobs if job is not None)

    def _release_media(self, job: Job) -> None:
        if job.prompt.spans and self._executor is not None:
            self._executor.release([span.media for span in job.prompt.spans])

    def _report_places(self) -> None:
        for place, job in enumerate(self._waiting, 1):
            if job.place != place:
                job.place = place
                job.post(Queued(place))

    def _announce(self, error: GemmaError | None = None) -> None:
        """Wake whoever waits for a worker: there is one, or it will not come for this reason."""
        change, self._change = self._change, _Change()
        change.error = error
        change.happened.set()

    def _slot_and_job(self, index: int) -> tuple[Slot, Job]:
        slot = self._slots[index]
        assert slot.job is not None
        return slot, slot.job

    def _count(self) -> None:
        self.stats.running, self.stats.waiting = len(self._running), len(self._waiting)


def _row_length(job: Job, row: Row) -> int:
    return len(row.tokens) if isinstance(row, TokenRow) else _span_length(job, row)


def _span_length(job: Job, row: MediaRow) -> int:
    return next(span.length for span in job.prompt.spans if span.start == row.position)


def _digest(request: GenerationRequest) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((request.segments, request.sampling, request.grammar))).digest()


def _verdict() -> WorkerDiedError:
    return WorkerDiedError(
        "The model's process ended each time it worked on this request, so it is refused from now on.",
        "Change the prompt or its images, or report it with the worker's log.",
    )


def _too_late(job: Job) -> DeadlineError:
    where = f"waiting at place {job.place}" if job.slot is None else f"reading the prompt ({job.position} tokens done)"
    return DeadlineError(f"Time was up while {where}.", "Allow more seconds, or try again when less is going on.")
