"""What clients were spared, added up over all servers of a user: one small SQLite file, one row a day.

Light on purpose: the command line reads it without the rest of the server, and `sqlite3` comes with the first use.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_mcp.errors import GemmaError
from gemma_mcp.places import Places
from gemma_mcp.state import make_private_file

if TYPE_CHECKING:
    import sqlite3
    from sqlite3 import Connection, Cursor

__all__ = ["Figures", "SavingsDamagedError", "SavingsError", "SavingsStore", "savings_path"]

VERSION = 1
"""Of the table; a file of a later one is left alone."""

KEPT_DAYS = 400
"""Days that keep a row of their own; older ones are added up by year, so the file stays below 100 KB."""

PRIMARY = 0xFF
DAMAGED = (1, 11, 26)
"""SQLite's primary result codes ERROR (no such table or column), CORRUPT and NOTADB: sqlite.org/rescode.html."""

BUSY_SECONDS = 5.0
"""How long another process may hold the file; adding a row takes milliseconds."""


@dataclass(frozen=True)
class Figures:
    """Counts that only ever grow; `saved` follows from them. Tokens are those of the model that answered.

    `sessions`: servers that answered at least one call. `calls`: results that reached a client, errors included.
    `unknown`: those of them whose tokens could not be counted; they are in no other figure.
    `file_tokens`: text that was read from files into a prompt and that the client never saw; the same text counts once
    a session, since a client that had read it would still have it. Images are not counted.
    `result_tokens`: everything textual in the results, provenance lines and errors included.
    `schema_tokens`: descriptions and schemas of the tools and the instructions, once a session.
    Arguments count neither way: what a client writes there is in its context already.
    """

    sessions: int = 0
    calls: int = 0
    unknown: int = 0
    file_tokens: int = 0
    result_tokens: int = 0
    schema_tokens: int = 0

    @property
    def saved(self) -> int:
        """Tokens kept out of the clients' contexts; below 0 when the tools cost more than they spared."""
        return self.file_tokens - self.result_tokens - self.schema_tokens

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


COLUMNS = tuple(field.name for field in fields(Figures))


class SavingsError(GemmaError):
    """The file cannot be used."""


class SavingsDamagedError(SavingsError):
    """The file is not what it should be, and will never be again."""


def savings_path(places: Places) -> Path:
    """Where the figures of a user are kept."""
    return places.data / "savings.sqlite3"


class SavingsStore:
    """The file. Every method opens it anew, blocks for some milliseconds, and raises SavingsError when it is no use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, figures: Figures, day: str) -> None:
        """Add to the figures of a day (ISO 8601), in one transaction."""
        with self._transaction(create=True) as connection:
            _add(connection, day, figures)
            _fold_old_days(connection)

    def days(self) -> list[tuple[str, Figures]]:
        """The figures of each day ("2026-11-21"), oldest first; days long gone are years ("2025")."""
        if not self.path.exists():
            return []
        with self._transaction() as connection:
            return list(_rows(connection.execute(f"SELECT day, {', '.join(COLUMNS)} FROM savings ORDER BY day")))

    def total(self) -> Figures:
        """Everything since the first day."""
        return sum((figures for _, figures in self.days()), Figures())

    def reset(self) -> None:
        """Forget everything. A damaged file is removed; one of a newer version is left alone."""
        if not self.path.exists():
            return
        try:
            with self._transaction() as connection:
                connection.execute("DELETE FROM savings")
        except SavingsDamagedError:
            try:
                self.path.unlink()
            except OSError as error:
                raise SavingsError(_sentence(self.path, _reason(error)), "Remove it yourself.") from error

    @contextmanager
    def _transaction(self, *, create: bool = False) -> "Generator[Connection]":
        import sqlite3

        try:
            if create:
                make_private_file(self.path)
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                _prepare(connection, self.path)
                yield connection
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _translated(self.path, error) from error
        except OSError as error:
            raise SavingsError(_sentence(self.path, _reason(error)), "Make its folder writable for you.") from error


def _translated(path: Path, error: "sqlite3.Error") -> SavingsError:
    sentence = _sentence(path, str(error))
    if error.sqlite_errorcode & PRIMARY in DAMAGED:
        return SavingsDamagedError(sentence, "`gemma-mcp stats --reset` starts a new one.")
    return SavingsError(sentence, "It is tried again at the next call.")


def _sentence(path: Path, why: str) -> str:
    return f"The savings in {path} cannot be used: {why}."


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _prepare(connection: "Connection", path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise SavingsError(_sentence(path, "the file was written by a newer gemma-mcp"), "Update gemma-mcp.")
    if version < VERSION:
        columns = ", ".join(f"{name} INTEGER NOT NULL" for name in COLUMNS)
        connection.execute(f"CREATE TABLE savings (day TEXT PRIMARY KEY, {columns}) WITHOUT ROWID")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _add(connection: "Connection", day: str, figures: Figures) -> None:
    places = ", ".join("?" * len(COLUMNS))
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in COLUMNS)
    connection.execute(
        f"INSERT INTO savings (day, {', '.join(COLUMNS)}) VALUES (?, {places}) ON CONFLICT (day) DO UPDATE SET {sums}",
        (day, *astuple(figures)),
    )


def _fold_old_days(connection: "Connection") -> None:
    """A day becomes part of its year; the sum over all rows stays the same."""
    query = f"SELECT day, {', '.join(COLUMNS)} FROM savings WHERE length(day) > 4 ORDER BY day DESC LIMIT -1 OFFSET ?"
    for day, figures in list(_rows(connection.execute(query, (KEPT_DAYS,)))):
        connection.execute("DELETE FROM savings WHERE day = ?", (day,))
        _add(connection, day[:4], figures)


def _rows(cursor: "Cursor") -> Iterator[tuple[str, Figures]]:
    for day, *counts in cursor:
        yield day, Figures(*counts)
