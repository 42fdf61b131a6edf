"""The store's file: who may read it, its schema and the way there from older ones, SQLite's errors in plain words.

Each piece of work opens the file anew and closes it again, which costs a millisecond: so no server holds on to a file
that was moved away, and none leaves a lock behind. `sqlite3` is imported by the first of them, not at a server's start.
"""

import contextlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_mcp.errors import RequestError, SessionStoreError, as_clause
from gemma_mcp.state import make_private_file

if TYPE_CHECKING:
    import sqlite3

__all__ = ["FILE_NAME", "MIGRATIONS", "Migration", "damaged", "full", "opened", "transaction"]

FILE_NAME = "sessions.db"

BUSY_SECONDS = 5.0
"""How long to wait for another process that writes; each write takes milliseconds."""

APPLICATION_ID = 0x67656D6D
"""Marks the file as ours for `file` and the like: "gemm"."""

Migration = Sequence[str]

MIGRATIONS: tuple[Migration, ...] = (
    (
        # Messages are known by what they say and what was said before: their chains share rows, like commits in Git.
        """CREATE TABLE message (
            id TEXT PRIMARY KEY,
            parent TEXT REFERENCES message (id),
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            ids BLOB,
            vocabulary TEXT,
            bytes INTEGER NOT NULL,
            total_bytes INTEGER NOT NULL
        )""",
        "CREATE INDEX message_by_parent ON message (parent)",
        "CREATE TABLE image (digest TEXT PRIMARY KEY, head TEXT NOT NULL, data BLOB NOT NULL)",
        """CREATE TABLE message_image (
            message TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
            image TEXT NOT NULL REFERENCES image (digest),
            PRIMARY KEY (message, image)
        ) WITHOUT ROWID""",
        "CREATE INDEX message_image_by_image ON message_image (image)",
        # `created` and `used` are for people; `place` (order of use) and `quiet_since` decide, see the table clock.
        """CREATE TABLE session (
            name TEXT PRIMARY KEY,
            head TEXT NOT NULL REFERENCES message (id),
            system TEXT,
            model TEXT,
            answered_by TEXT NOT NULL,
            turns INTEGER NOT NULL,
            opening TEXT NOT NULL,
            created REAL NOT NULL,
            used REAL NOT NULL,
            quiet_since REAL NOT NULL,
            place INTEGER NOT NULL
        )""",
        "CREATE INDEX session_by_head ON session (head)",
        "CREATE TABLE clock (elapsed REAL NOT NULL, wall REAL NOT NULL, place INTEGER NOT NULL)",
        "INSERT INTO clock VALUES (0, 0, 0)",
    ),
)
"""One for each version of the schema; `PRAGMA user_version` counts those that were applied. Old ones never change."""


@contextmanager
def opened(folder: Path, migrations: Sequence[Migration] = MIGRATIONS) -> Generator["sqlite3.Connection"]:
    """The store below `folder`, made or brought up to date if need be. Raises SessionStoreError for all that may happen
    to a file, also to what is done with the connection.
    """
    import sqlite3

    path = folder / FILE_NAME
    try:
        make_private_file(path)
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        with contextlib.closing(db):
            _prepare(db, path, migrations)
            yield db
    except sqlite3.Error as error:
        raise _explained(error, path) from error
    except UnicodeDecodeError as error:  # SQLite quotes what it cannot read
        raise damaged(path) from error
    except UnicodeEncodeError as error:
        raise RequestError("The request holds text that is not valid Unicode.", "Remove lone surrogates.") from error
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error


@contextmanager
def transaction(db: "sqlite3.Connection") -> Generator[None]:
    """All of it or nothing, whenever the process ends. Waits for others that write."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _prepare(db: "sqlite3.Connection", path: Path, migrations: Sequence[Migration]) -> None:
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")  # a turn that was answered outlives a power cut
    db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
    version = _version(db)
    if version > len(migrations):
        raise _newer(path, version, len(migrations))
    if version < len(migrations):
        _migrate(db, path, migrations)


def _version(db: "sqlite3.Connection") -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def _migrate(db: "sqlite3.Connection", path: Path, migrations: Sequence[Migration]) -> None:
    """One process at a time: SQLite does not wait for its turn when it changes the journal's mode."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_suffix(".lock"), timeout=BUSY_SECONDS):
            if _version(db) == 0:
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
                db.execute("PRAGMA journal_mode = WAL")  # who reads does not wait for who writes
            with transaction(db):
                version = _version(db)
                if version == 0:
                    _refuse_strangers(db, path)
                for statement in (statement for one in migrations[version:] for statement in one):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {len(migrations)}")
    except Timeout:
        raise _busy(path) from None


def _refuse_strangers(db: "sqlite3.Connection", path: Path) -> None:
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise SessionStoreError(str(path), "it is the database of another program", "Move it away; a new one is made.")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _explained(error: "sqlite3.Error", path: Path) -> SessionStoreError:
    """By the primary result code, https://www.sqlite.org/rescode.html."""
    import sqlite3

    code: int = getattr(error, "sqlite_errorcode", 0)
    match code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _busy(path)
        case sqlite3.SQLITE_FULL:
            return full(path)
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the index of the log, which finds no room
            return full(path)
        case sqlite3.SQLITE_IOERR:
            why = f"reading or writing it failed ({getattr(error, 'sqlite_errorname', 'SQLITE_IOERR')})"
            hint = "See whether the disk is full, a quota is reached, or the disk has errors."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return _unusable(path, "it cannot be opened for writing")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path)
        case _:
            why = f"SQLite says: {error}"
            hint = "Look at it with `gemma-mcp sessions repair`."
    return SessionStoreError(str(path), why, hint)


def damaged(path: Path) -> SessionStoreError:
    """The file holds something that no store writes."""
    hint = "`gemma-mcp sessions repair` moves it aside and saves what can be read."
    return SessionStoreError(str(path), "it is damaged", hint)


def full(path: Path) -> SessionStoreError:
    """The disk has no room for another turn."""
    return SessionStoreError(str(path), "the disk is full", "Free some of it; deleting sessions needs some first.")


def _busy(path: Path) -> SessionStoreError:
    why = f"another program kept it locked for {BUSY_SECONDS:g} s"
    return SessionStoreError(str(path), why, "Try again; if that goes on, end the program that has it open.")


def _unusable(path: Path, why: str) -> SessionStoreError:
    hint = "Make the folder writable for you, or set GEMMA_MCP_HOME to one that is."
    return SessionStoreError(str(path), as_clause(why), hint)


def _newer(path: Path, version: int, known: int) -> SessionStoreError:
    why = f"a newer gemma-mcp wrote it (version {version} of the store; this one knows up to {known})"
    return SessionStoreError(str(path), why, "Update gemma-mcp, or set GEMMA_MCP_HOME to another folder.")
