"""A file of results, JSON Lines: added to as results come, readable at any moment, mended when a crash tore its end.

The last row about a part of a file counts. When a job is complete the file is written anew, once, in the order of the
job's files and without rows that others replaced.
"""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedRandom
from itertools import pairwise
from pathlib import Path

import msgspec

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.inputs.paths import reason
from gemma_mcp.server.maps.records import Record
from gemma_mcp.server.maps.rows import Row, Status

__all__ = ["Journal"]

CREATE = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class _Head(msgspec.Struct, frozen=True):
    """As much of a row as is kept in memory."""

    job: str
    key: str
    path: str
    status: Status
    lines: str = ""
    reason: str = ""


@dataclass(frozen=True)
class _Entry:
    """Where a row stands."""

    key: str
    status: Status
    start: int
    size: int
    reason: str


Place = tuple[str, str]
"""A path and its lines."""


class Journal:
    """One file of results, for one job. All methods block; they raise InputRefusedError when the file is no use.

    Whoever opens it sees to it that nobody else has it open.
    """

    def __init__(self, path: Path, job: str, *, private: bool, shown: str) -> None:
        self.path = path
        self._job = job
        self._mode = 0o600 if private else 0o666
        self._shown = shown
        self._file: BufferedRandom | None = None
        self._size = 0
        self._rows = 0
        self._afresh = False
        self._entries: dict[Place, _Entry] = {}
        self._done: dict[str, _Entry] = {}

    def read(self, *, afresh: bool = False) -> None:
        """Take in what is there, which must be of this job; with `afresh` the first row replaces it, whatever it is."""
        self._afresh = afresh
        if afresh or not self.path.exists():
            return
        try:
            self._take(self._open())
            os.utime(self.path)  # it was used: what was not used for longest is deleted first
        except OSError as error:
            raise self._refused(reason(error), "Check the disk and who may write there.") from error
        except InputRefusedError:
            self.close()
            raise

    def knows(self, key: str) -> bool:
        """Whether a question has a result here; nothing is read."""
        return key in self._done

    def done(self, key: str) -> Row | None:
        """The result of a question, whichever part of a file it was about."""
        entry = self._done.get(key)
        return self._row(entry) if entry else None

    def has(self, record: Record) -> bool:
        """Whether the record's own result is there."""
        entry = self._entries.get(_place(record))
        return entry is not None and entry.key == record.key and entry.status == "ok"

    def has_refusal(self, row: Row) -> bool:
        """Whether this very row is the last about its part of a file."""
        entry = self._entries.get((row.path, row.lines))
        return entry is not None and (entry.key, entry.status, entry.reason) == (row.key, row.status, row.reason)

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows. They are in the file when this returns; when it raises, none of them is."""
        data = [msgspec.json.encode(row) + b"\n" for row in rows]
        try:
            file = self._open()
            try:
                if self._afresh:
                    file.truncate(0)
                    self._afresh = False
                file.seek(self._size)
                file.write(b"".join(data))
                file.flush()
            except OSError:
                self._cut(file)
                raise
        except OSError as error:
            raise self._refused(reason(error), "Free some space and call again: what is done stays done.") from error
        for row, line in zip(rows, data, strict=True):
            self._note(row, len(line))

    def finish(self, records: Iterable[Record], others: Iterable[Place]) -> None:
        """Bring the rows into the order of these records, then of the `others`; rows about files that were not named
        stay behind them. What cannot be rewritten stays as it is.
        """
        order = list(dict.fromkeys([*map(_place, records), *others]))
        named = {path for path, _ in order}
        kept = [self._entries[place] for place in order if place in self._entries]
        kept += [entry for place, entry in self._entries.items() if place[0] not in named]
        if len(kept) == self._rows and all(a.start < b.start for a, b in pairwise(kept)):
            return
        beside = self.path.with_name(f"gemma-{secrets.token_hex(8)}.tmp")
        with contextlib.suppress(OSError):
            try:
                self._copy(beside, kept)
                self.close()
                beside.replace(self.path)
            finally:
                beside.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file, once it is on the disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self) -> BufferedRandom:
        if self._file is None:
            descriptor = os.open(self.path, os.O_RDWR | CREATE, self._mode)
            self._file = os.fdopen(descriptor, "r+b")
        return self._file

    def _take(self, file: BufferedRandom) -> None:
        """A last line without an end was torn by a crash, and so was a line in the middle that cannot be read."""
        begins = msgspec.json.encode({"job": self._job})[:-1]
        head = file.read(len(begins))
        if not begins.startswith(head):
            raise self._not_ours()
        start = file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._take_line(line, start)
            start += len(line)
        if start < file.seek(0, os.SEEK_END):
            file.truncate(start)
        self._size = start

    def _take_line(self, line: bytes, start: int) -> None:
        try:
            head = msgspec.json.decode(line, type=_Head)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._rows += 1
            return
        if head.job != self._job:
            raise self._not_ours()
        self._keep(_Entry(head.key, head.status, start, len(line), head.reason), (head.path, head.lines))

    def _note(self, row: Row, size: int) -> None:
        self._keep(_Entry(row.key, row.status, self._size, size, row.reason), (row.path, row.lines))
        self._size += size

    def _keep(self, entry: _Entry, place: Place) -> None:
        self._rows += 1
        self._entries[place] = entry
        if entry.status == "ok":
            self._done[entry.key] = entry

    def _row(self, entry: _Entry) -> Row | None:
        file = self._open()
        file.seek(entry.start)
        try:
            return msgspec.json.decode(file.read(entry.size), type=Row)
        except msgspec.DecodeError:  # somebody else wrote to the file
            return None

    def _copy(self, beside: Path, entries: Sequence[_Entry]) -> None:
        source = self._open()
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_EXCL | CREATE, self._mode), "wb") as target:
            for data in self._data(source, entries):
                target.write(data)
            target.flush()
            os.fsync(target.fileno())

    def _data(self, source: BufferedRandom, entries: Sequence[_Entry]) -> Iterator[bytes]:
        for entry in entries:
            source.seek(entry.start)
            yield source.read(entry.size)

    def _cut(self, file: BufferedRandom) -> None:
        """A full disk holds half of what was written. What the buffer still holds must not follow it, so close."""
        with contextlib.suppress(OSError):
            file.raw.truncate(self._size)
        self.close()
        with contextlib.suppress(OSError):
            os.truncate(self.path, self._size)

    def _not_ours(self) -> InputRefusedError:
        return self._refused(
            "it exists already and is not a file with results of this very job",
            "Choose another name, or have it replaced if that is offered.",
        )

    def _refused(self, why: str, hint: str) -> InputRefusedError:
        return InputRefusedError(self._shown, why, hint)


def _place(record: Record) -> Place:
    return record.path, record.part.lines
