"""What there is to do: every file is read once and cut, and only names and places of its parts are kept."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import anyio.to_thread

from gemma_mcp.errors import InputRefusedError, RequestError
from gemma_mcp.server.inputs.files import TextFile
from gemma_mcp.server.inputs.sources import FileSources, Found, Source
from gemma_mcp.server.maps.job import Job
from gemma_mcp.server.maps.records import Count, Part, Record, chunks_of, lines_of, whole_file
from gemma_mcp.server.progress import Speaker

__all__ = ["Batch", "Plan", "Refused", "Survey"]


@dataclass(frozen=True)
class Batch:
    """The records of one file, as it was when it had this digest."""

    source: Source
    digest: bytes
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Refused:
    """Something that was named and cannot be worked on."""

    record: Record
    error: InputRefusedError


@dataclass(frozen=True)
class Plan:
    """Everything that a call is about."""

    batches: tuple[Batch, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]

    @property
    def records(self) -> Iterator[Record]:
        """All of them, in order."""
        return (record for batch in self.batches for record in batch.records)

    def with_fresh(self, fresh: Batch) -> "Plan":
        """The plan after a file was cut anew."""
        return replace(self, batches=tuple(fresh if one.source == fresh.source else one for one in self.batches))


class Survey:
    """Looks at files for one job. `room` says how many tokens a chunk may have; it is asked only if there are any."""

    def __init__(
        self, files: FileSources, job: Job, most_records: int, room: Callable[[], Awaitable[int]], count: Count
    ) -> None:
        self._files = files
        self._job = job
        self._most_records = most_records
        self._room = room
        self._count = count
        self._most_tokens: int | None = None

    async def look(self, specs: Sequence[str], speaker: Speaker) -> Plan:
        """The plan. Raises InputRefusedError when there is nothing to do, or too much."""
        found = await self._files.find(specs)
        batches: list[Batch] = []
        refused = [_refused(self._job, error, error.path) for error in found.refused]
        notes = list(found.notes)
        seen: set[tuple[str, str]] = set()
        count = 0
        for number, source in enumerate(found.sources, 1):
            speaker.say(f"looking at files · {number:,} of {len(found.sources):,} · {source.name[-100:]}")
            try:
                file = await self.read(source)
                batch = await self.cut(source, file)
            except InputRefusedError as error:
                refused.append(_refused(self._job, error, source.name))
                continue
            if (file.name, file.lines) in seen:
                continue
            seen.add((file.name, file.lines))
            notes += [file.note] if file.note else []
            batches.append(batch)
            count += len(batch.records)
            if count > self._most_records:
                raise self._too_many()
        return _checked(Plan(tuple(batches), tuple(refused), tuple(notes)), found)

    async def read(self, source: Source) -> TextFile:
        """A file as it is now. Raises InputRefusedError."""
        return await anyio.to_thread.run_sync(self._files.read, source, abandon_on_cancel=True)

    async def cut(self, source: Source, file: TextFile) -> Batch:
        """Its records. Raises InputRefusedError when there are none."""
        parts = await self._parts(file)
        records = tuple(Record(file.name, part, self._job.key(file, part)) for part in parts)
        return Batch(source, _digest(file), records)

    def unchanged(self, batch: Batch, file: TextFile) -> bool:
        """Whether the file is as it was."""
        return _digest(file) == batch.digest

    async def _parts(self, file: TextFile) -> list[Part]:
        if self._job.per == "file":
            return whole_file(file)
        if self._job.per == "line":
            return lines_of(file)
        if self._most_tokens is None:
            self._most_tokens = await self._room()
        return await chunks_of(file, self._most_tokens, self._count)

    def _too_many(self) -> RequestError:
        return RequestError(
            f"The files have more than the {self._most_records:,} {self._job.per}s that map.max_records allows.",
            "Name fewer files, or lines of them ('data.jsonl:1-5000').",
        )


def _checked(plan: Plan, found: Found) -> Plan:
    if plan.batches:
        return plan
    raise plan.refused[0].error if plan.refused else found.refused[0]


def _refused(job: Job, error: InputRefusedError, name: str) -> Refused:
    key = hashlib.sha256(f"{job.id}\0{name}".encode("utf-8", "replace")).hexdigest()[:32]
    return Refused(Record(name, Part(0, 0), key), error)


def _digest(file: TextFile) -> bytes:
    return hashlib.blake2b(file.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
