"""The doing: what is known already is taken over, the rest is asked, every result is written as it comes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from gemma_mcp.errors import (
    BackendMissingError,
    ConfigError,
    ContextOverflowError,
    DeadlineError,
    GemmaError,
    InputRefusedError,
    LoadFailedError,
    RemoteError,
    UnknownModelError,
    UnsupportedError,
)
from gemma_mcp.server.inputs.files import TextFile
from gemma_mcp.server.maps.bulk import BulkCaller
from gemma_mcp.server.maps.cache import CacheError, ResultCache
from gemma_mcp.server.maps.job import Job
from gemma_mcp.server.maps.journal import Journal
from gemma_mcp.server.maps.records import Record, excerpt
from gemma_mcp.server.maps.rows import Row, answered, copied, unanswered
from gemma_mcp.server.maps.survey import Batch, Plan, Survey
from gemma_mcp.server.maps.tally import Tally, Voice
from gemma_mcp.server.overflow import PieceWork
from gemma_mcp.server.replies import Reply
from gemma_mcp.wire import ModelCard

__all__ = ["Work"]

HOPELESS = (UnknownModelError, UnsupportedError, ConfigError, BackendMissingError, LoadFailedError)
"""Errors that all other records would meet, too."""

MOST_LOST = 5
"""Records in a row that find no engine before the call gives up."""

TAKEN_AT_ONCE = 500
"""Records that are looked up and written together: what is known already comes in thousands."""

MOST_READ_CHARACTERS = 4_000_000
"""Of texts that are held for the count of what the client was spared; more are not counted."""

CACHED_AT_ONCE = 16
"""Results that go to the cache in one transaction; they are in the file of results already."""


@dataclass(frozen=True)
class Question:
    """A record that is to be asked, its text, and the equal ones that take its answer."""

    record: Record
    file: TextFile


class Work:
    """One call's work on a plan. Results go to the journal, and what is repeatable to the cache."""

    def __init__(
        self, job: Job, caller: BulkCaller, survey: Survey, journal: Journal, cache: ResultCache, tally: Tally
    ) -> None:
        self._job = job
        self._caller = caller
        self._survey = survey
        self._journal = journal
        self._cache = cache
        self.tally = tally
        self.card: ModelCard | None = None
        self.read: list[str] = []
        self.notes: list[str] = []
        self.late: DeadlineError | None = None
        self._read_characters = 0
        self._lost = 0
        self._error: GemmaError | None = None
        self._scope = anyio.CancelScope()
        self._writing = anyio.Lock()
        self._equals: dict[str, list[Record]] = {}
        self._plan = Plan((), (), ())
        self._unremembered: list[Row] = []

    async def run(self, plan: Plan) -> None:
        """Work until all is done or time is up. Raises InputRefusedError when results cannot be written, and errors
        that concern all records; what was done until then is kept.
        """
        self._plan = plan
        self.tally.total = sum(len(batch.records) for batch in plan.batches) + len(plan.refused)
        await self._take_refused(plan)
        pending = await self._take_known(plan)
        if pending:
            try:
                await self._ask_all(pending)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._remember()
        if self._error is not None:
            raise self._error

    async def finish(self) -> None:
        """Bring the file of results into order."""
        others = [(refused.record.path, "") for refused in self._plan.refused]
        await anyio.to_thread.run_sync(self._journal.finish, self._plan.records, others)

    # -- what needs no model ------------------------------------------------------------------------------------------

    async def _take_refused(self, plan: Plan) -> None:
        rows = [unanswered(self._job.id, one.record, one.error) for one in plan.refused]
        for row in rows:
            self.tally.take(row)
        new = [row for row in rows if not self._journal.has_refusal(row)]
        await self._write(new)

    async def _take_known(self, plan: Plan) -> list[Batch]:
        """Take over what the file of results and the cache know; returns the files with records that are left."""
        pending = [left for batch in plan.batches if (left := self._without_kept(batch)).records]
        if not self._job.repeatable:
            return pending
        records = [record for batch in pending for record in batch.records]
        for first in range(0, len(records), TAKEN_AT_ONCE):
            some = records[first : first + TAKEN_AT_ONCE]
            await self._record(await anyio.to_thread.run_sync(self._copies, some))
        return [left for batch in pending if (left := self._without(batch)).records]

    def _without_kept(self, batch: Batch) -> Batch:
        left = self._without(batch)
        self.tally.kept += len(batch.records) - len(left.records)
        return left

    def _without(self, batch: Batch) -> Batch:
        left = tuple(record for record in batch.records if not self._journal.has(record))
        return replace(batch, records=left)

    def _copies(self, records: Sequence[Record]) -> list[Row]:
        """What equal questions were answered. Blocks."""
        known: Mapping[str, Row] = {}
        try:
            known = self._cache.find(list({record.key for record in records}))
        except CacheError as error:
            self._note(error)
        rows = [(record, self._journal.done(record.key) or known.get(record.key)) for record in records]
        return [copied(row, self._job.id, record) for record, row in rows if row is not None]

    # -- what a model is asked ----------------------------------------------------------------------------------------

    async def _ask_all(self, pending: Sequence[Batch]) -> None:
        self.tally.start()
        send, receive = anyio.create_memory_object_stream[Question](0)
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            tasks.start_soon(self._produce, pending, send)
            for _ in range(self._caller.at_once):
                tasks.start_soon(self._consume, receive.clone())
            receive.close()

    @property
    def _over(self) -> bool:
        return self._job.options.box.elapsed >= self._job.options.box.seconds

    async def _produce(self, pending: Sequence[Batch], send: MemoryObjectSendStream[Question]) -> None:
        async with send:
            try:
                for batch in pending:
                    if not self._over:
                        await self._produce_from(batch, send)
            except DeadlineError as error:
                self.late = self.late or error
            except GemmaError as error:
                self._give_up(error)

    async def _produce_from(self, batch: Batch, send: MemoryObjectSendStream[Question]) -> None:
        """Reads a file when there is somebody to take its records."""
        try:
            file = await self._survey.read(batch.source)
            records = await self._current(batch, file)
        except InputRefusedError as error:
            await self._record([unanswered(self._job.id, one, error) for one in batch.records])
            return
        for record in records:
            if self._over:
                return
            if record.key in self._equals:
                self._equals[record.key].append(record)
            elif not await self._taken_over(record):
                self._equals[record.key] = []
                await send.send(Question(record, excerpt(file, record.part, self._job.per)))

    async def _current(self, batch: Batch, file: TextFile) -> Sequence[Record]:
        """The batch's records, or those of the file as it is now."""
        if self._survey.unchanged(batch, file):
            return batch.records
        fresh = await self._survey.cut(batch.source, file)
        self._plan = self._plan.with_fresh(fresh)
        left = self._without(fresh).records
        self.tally.total += len(left) - len(batch.records)
        return left

    async def _taken_over(self, record: Record) -> bool:
        """Whether an equal one has been answered meanwhile."""
        if not self._job.repeatable or not self._journal.knows(record.key):
            return False
        async with self._writing:
            row = await anyio.to_thread.run_sync(self._journal.done, record.key)
        if row is not None:
            await self._record([copied(row, self._job.id, record)])
        return row is not None

    async def _consume(self, receive: MemoryObjectReceiveStream[Question]) -> None:
        async with receive:
            async for question in receive:
                if not self._over:
                    await self._settle(question)

    async def _settle(self, question: Question) -> None:
        record, started = question.record, monotonic()
        try:
            reply = replace(await self._reply(question), seconds=monotonic() - started)
            if reply.finish_reason == "deadline":
                return
            row = answered(self._job.id, record, reply, as_json=self._job.schema is not None)
        except DeadlineError as error:
            self.late = self.late or error
            return
        except HOPELESS as error:
            self._give_up(error)
            return
        except GemmaError as error:
            if self._is_lost(error):
                self._give_up(error)
                return
            row = unanswered(self._job.id, record, error)
        else:
            self._lost = 0
            self.card = reply.card
            self._note_read(question.file.text)
        await self._answered(row, record)

    async def _reply(self, question: Question) -> Reply:
        """A file that does not fit is read in pieces, whose answers are merged; a chunk or a line must fit."""
        job, speaker = self._job, Voice(self.tally, question.record.name)
        options = self._job.options
        task = job.task(question.file)
        try:
            return await self._caller.ask(speaker, task.messages(task.files), job.whole(options))
        except ContextOverflowError:
            if job.per != "file":
                raise
        return await PieceWork(self._caller, speaker, task, options).reply()

    def _is_lost(self, error: GemmaError) -> bool:
        """Whether so many in a row found no engine that the others will not either."""
        self._lost = self._lost + 1 if isinstance(error, RemoteError) else 0
        return self._lost >= MOST_LOST

    async def _answered(self, row: Row, record: Record) -> None:
        """One answer for all who asked the same."""
        with anyio.CancelScope(shield=True):  # what was computed is kept, even if the call is cancelled just now
            try:
                await self._record([row])  # from now on it is found there
                await self._record([_same(row, self._job.id, one) for one in self._equals.pop(record.key, [])])
                await self._put_by(row)
            except GemmaError as error:
                self._give_up(error)

    def _give_up(self, error: GemmaError) -> None:
        """The call ends with this error; what others are being asked meanwhile is broken off."""
        self._error = self._error or error
        self._scope.cancel()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _record(self, rows: Sequence[Row]) -> None:
        await self._write(rows)
        for row in rows:
            self.tally.take(row)

    async def _write(self, rows: Sequence[Row]) -> None:
        if rows:
            async with self._writing:
                await anyio.to_thread.run_sync(self._journal.add, rows)

    async def _put_by(self, row: Row) -> None:
        """Replies that would come out otherwise in another context stay out of the cache."""
        if row.status == "ok" and self._job.repeatable and not row.notes:
            self._unremembered.append(row)
        if len(self._unremembered) >= CACHED_AT_ONCE:
            await self._remember()

    async def _remember(self) -> None:
        rows, self._unremembered = self._unremembered, []
        if not rows:
            return
        try:
            await anyio.to_thread.run_sync(self._cache.keep, rows)
        except CacheError as error:
            self._note(error)

    def _note(self, error: CacheError) -> None:
        if error.message not in self.notes:
            self.notes.append(error.message)

    def _note_read(self, text: str) -> None:
        """For the count of what the client was spared."""
        if self._read_characters + len(text) <= MOST_READ_CHARACTERS:
            self._read_characters += len(text)
            self.read.append(text)


def _same(row: Row, job: str, record: Record) -> Row:
    if row.status == "ok":
        return copied(row, job, record)
    return msgspec.structs.replace(row, path=record.path, lines=record.part.lines)
