"""The way in: a request is refused or encoded, waits for a slot, and is watched until its reader leaves.

`Intake` owns the queue. The scheduler takes jobs out of it and is told, through `withdraw`, of running ones that end.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec

from gemma_mcp.engine.backend import MediaPiece, Piece
from gemma_mcp.engine.host import AsyncExecutor
from gemma_mcp.engine.job import Job, Prompt
from gemma_mcp.errors import (
    ContextOverflowError,
    DeadlineError,
    GemmaError,
    QueueFullError,
    RequestError,
    WorkerDiedError,
)
from gemma_mcp.types import Event, GenerationRequest, Media, Queued, Text

__all__ = ["MOST_PASSED", "Intake", "Signal"]


MOST_PASSED = 8
"""How many requests may go before a bulk one that came first."""


class Signal:
    """Something happened; whoever waits for it looks again."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake those who wait now."""
        self._event.set()

    async def next(self) -> None:
        """Return when `set` is called from now on."""
        self._event = anyio.Event()
        await self._event.wait()


class _WorkerNews:
    """A worker came, or cannot be had."""

    def __init__(self) -> None:
        self.happened = anyio.Event()
        self.error: GemmaError | None = None


class Intake:
    """The queue and its door. `free_slots` says how many requests would not have to wait."""

    def __init__(
        self, *, queue_limit: int, free_slots: Callable[[], int], withdraw: Callable[[Job], None], work: Signal
    ) -> None:
        self.waiting: deque[Job] = deque()
        self.requests = 0
        self._queue_limit = queue_limit
        self._free_slots = free_slots
        self._withdraw_running = withdraw
        self._work = work
        self._arriving = 0
        self.alone = asyncio.Lock()
        """Held during a step, and by a prompt whose encoding a worker did not survive: no two suspects at once."""
        self._executor: AsyncExecutor | None = None
        self._suspended = anyio.Event()
        self._news = _WorkerNews()
        self._condemned: set[bytes] = set()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits, in the queue or before it."""
        return bool(self.waiting or self._arriving)

    # --- the door ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncGenerator[AsyncIterator[Event]]:
        """The request's events; leaving the block ends it.

        Raises QueueFullError, ContextOverflowError or RequestError on entering; DeadlineError, when time is up before
        there is any text, and the worker's errors while iterating.
        """
        submitted = time.monotonic()
        self._check_room(request)
        job = await self._accept_in_time(request, submitted)
        timer = self._start_timer(job, submitted)
        try:
            yield job.events
        finally:
            if timer is not None:
                timer.cancel()
            self._cancel(job)

    def _check_room(self, request: GenerationRequest) -> None:
        if self._condemned and _digest(request) in self._condemned:
            raise _verdict()
        if len(self.waiting) + self._arriving >= self._queue_limit + self._free_slots():
            raise QueueFullError(self._queue_limit)

    async def _accept_in_time(self, request: GenerationRequest, submitted: float) -> Job:
        self._arriving += 1
        self._work.set()
        try:
            with anyio.move_on_after(request.deadline_seconds):
                return await self._accept(request, submitted)
        finally:
            self._arriving -= 1
        raise self._not_accepted()

    def _not_accepted(self) -> DeadlineError:
        if self._executor is None or not self._executor.alive:
            return DeadlineError("Time was up while the model was loaded again.", "Try again: it goes on loading.")
        return DeadlineError(
            "Time was up before the prompt was taken apart.", "Allow more seconds, or try again when less is going on."
        )

    async def _accept(self, request: GenerationRequest, submitted: float) -> Job:
        executor, prompt = await self._encode(request)
        context_length = executor.info.context_length
        wanted = request.max_tokens or 1
        if len(prompt.ids) + wanted > context_length:
            executor.release([span.media for span in prompt.spans])
            raise ContextOverflowError(len(prompt.ids), wanted, context_length)
        job = Job(request, prompt, context_length, submitted)
        job.prepared_by = executor
        self.requests += 1
        self._queue(job)
        self.report_places()
        self._work.set()
        return job

    def _queue(self, job: Job) -> None:
        """Before bulk, unless that was passed so often that it is its turn."""
        place = len(self.waiting)
        while not job.bulk and place and self.waiting[place - 1].bulk and self.waiting[place - 1].passed < MOST_PASSED:
            place -= 1
            self.waiting[place].passed += 1
        self.waiting.insert(place, job)

    async def _encode(self, request: GenerationRequest) -> tuple[AsyncExecutor, Prompt]:
        """A worker that dies meanwhile may do so for another request's sake, so the next one gets this prompt alone."""
        executor = await self._current_executor()
        try:
            return executor, await encode(executor, request)
        except WorkerDiedError:
            return await self._encode_alone(request)

    async def _encode_alone(self, request: GenerationRequest) -> tuple[AsyncExecutor, Prompt]:
        while True:
            executor = await self._current_executor()
            async with self.alone:
                if not executor.alive:  # it died while others had their turn alone
                    continue
                try:
                    return executor, await encode(executor, request)
                except WorkerDiedError:
                    self._condemned.add(_digest(request))
                    raise _verdict() from None

    async def _current_executor(self) -> AsyncExecutor:
        """A living worker; its death may not have been noticed by the scheduler yet."""
        while (executor := self._executor) is None or not executor.alive:
            if executor is None:
                await self._worker_news()
            else:
                await self._suspended.wait()
        return executor

    async def _worker_news(self) -> None:
        news = self._news
        await news.happened.wait()
        if news.error is not None:
            raise news.error

    async def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each of the texts has, the beginning-of-sequence token left out."""
        self._arriving += 1
        self._work.set()
        try:
            executor = await self._current_executor()
            opening = _tokens(await executor.encode((Text(""),)))
            return [_tokens(await executor.encode((Text(text),))) - opening for text in texts]
        finally:
            self._arriving -= 1

    # --- the reader's end -------------------------------------------------------------------------------------

    def _start_timer(self, job: Job, submitted: float) -> asyncio.TimerHandle | None:
        seconds = job.request.deadline_seconds
        if seconds is None:
            return None
        left = seconds - (time.monotonic() - submitted)
        return asyncio.get_running_loop().call_later(left, self._expire, job)

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
        """A finished job leaves the queue at once, and a slot when the step that computes it is over."""
        if job in self.waiting:
            self.waiting.remove(job)
            self.release_media(job)
            self.report_places()
        else:
            self._withdraw_running(job)
        self._work.set()

    # --- for the scheduler ------------------------------------------------------------------------------------

    def open(self, executor: AsyncExecutor) -> None:
        """There is a worker."""
        self._executor = executor
        self._suspended = anyio.Event()
        self._tell(None)

    def suspend(self) -> None:
        """There is none for the moment; requests wait."""
        self._executor = None
        self._suspended.set()

    def refuse(self, error: GemmaError) -> None:
        """No worker can be had: whoever waits is told so."""
        for job in self.waiting:
            job.fail(error)
        self.waiting.clear()
        self._tell(error)

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Jobs that a dead worker held wait again, before all others."""
        self.waiting = deque(job for job in (*jobs, *self.waiting) if not job.finished)
        self.report_places()

    def postpone(self, job: Job) -> None:
        """A running job gave up its slot to one that people wait for; it comes next after those."""
        place = next((place for place, other in enumerate(self.waiting) if other.bulk), len(self.waiting))
        self.waiting.insert(place, job)
        self.report_places()

    def condemn(self, job: Job) -> None:
        """It has killed its workers: end it, and refuse it when it comes again."""
        self._condemned.add(_digest(job.request))
        job.fail(_verdict())

    def report_places(self) -> None:
        """Tell those whose place in the queue has changed."""
        for place, job in enumerate(self.waiting, 1):
            if job.place != place:
                job.place = place
                job.post(Queued(place))

    def release_media(self, job: Job) -> None:
        """Let the worker forget a job's images, if it is the one that prepared them."""
        if job.prompt.spans and self._executor is not None and job.prepared_by is self._executor:
            self._executor.release([span.media for span in job.prompt.spans])

    def _tell(self, error: GemmaError | None) -> None:
        news, self._news = self._news, _WorkerNews()
        news.error = error
        news.happened.set()


async def encode(executor: AsyncExecutor, request: GenerationRequest) -> Prompt:
    """The request's prompt as tokens and images.

    Images stay prepared in the worker until they are released, so their handles must not get lost to a cancellation.
    """
    pieces: tuple[Piece, ...] = ()
    with anyio.CancelScope(shield=any(isinstance(segment, Media) for segment in request.segments)):
        pieces = await executor.encode(request.segments)
    try:
        return Prompt.assemble(pieces)
    except RequestError:
        executor.release([piece.media for piece in pieces if isinstance(piece, MediaPiece)])
        raise


def _tokens(pieces: Iterable[Piece]) -> int:
    return sum(len(piece.ids) for piece in pieces if not isinstance(piece, MediaPiece))


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
