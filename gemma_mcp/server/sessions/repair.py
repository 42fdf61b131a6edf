"""Mends a damaged store, on the user's command only: the file is moved aside, and what can be read is taken over."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_mcp.errors import SessionStoreError
from gemma_mcp.server.sessions.database import FILE_NAME, MIGRATIONS, opened, transaction
from gemma_mcp.server.sessions.messages import chain, insert, messages_of

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Repair", "repair"]

BESIDE = ("", "-wal", "-shm")
"""The files of a SQLite database."""


@dataclass(frozen=True)
class Repair:
    """`aside`: where the damaged file is now, None when the store was sound. `lost`: sessions that cannot be read."""

    aside: Path | None
    saved: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def repair(folder: Path) -> Repair:
    """Examine the store below `folder`; if it is damaged, make a new one of what can be read in it.

    Raises SessionStoreError when it cannot be opened for a reason that moving it aside does not mend.
    """
    path = folder / FILE_NAME
    if not path.exists() or _is_sound(folder):
        return Repair(None)
    aside = _move_aside(path)
    saved, lost = _take_over(aside, folder)
    return Repair(aside, tuple(saved), tuple(lost))


def _is_sound(folder: Path) -> bool:
    import sqlite3

    try:
        with opened(folder) as db:
            report = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            orphans = db.execute("PRAGMA foreign_key_check").fetchone()
            heads: list[str] = [head for (head,) in db.execute("SELECT head FROM session")]
            return report == "ok" and orphans is None and all(_is_whole(db, head) for head in heads)
    except SessionStoreError as error:
        cause = error.__cause__
        if isinstance(cause, UnicodeDecodeError):
            return False
        if isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF not in _in_the_way():
            return False
        raise


def _in_the_way() -> frozenset[int]:
    """Results that say nothing about what the file holds."""
    import sqlite3

    locked = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}
    return frozenset(locked | {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def _is_whole(db: "sqlite3.Connection", head: str) -> bool:
    try:
        return bool(chain(db, head))
    except ValueError:
        return False


def _move_aside(path: Path) -> Path:
    number = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        for ending in BESIDE:
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    except OSError as error:
        hint = "End all clients that run gemma-mcp, then try again."
        raise SessionStoreError(str(path), f"it cannot be moved aside ({error.strerror})", hint) from error
    return aside


def _take_over(aside: Path, folder: Path) -> tuple[list[str], list[str]]:
    import sqlite3

    saved: list[str] = []
    lost: list[str] = []
    with opened(folder) as db, contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as old:
        for name in _names(old):
            try:
                with transaction(db):
                    _take_over_session(db, old, name)
                saved.append(name)
            except (sqlite3.Error, ValueError, KeyError, TypeError):
                lost.append(name)
    return saved, lost


def _names(old: "sqlite3.Connection") -> Iterator[str]:
    """As many as can be read, the last used one last. None from a file that is no store of this version."""
    import sqlite3

    try:
        if old.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS):
            for (name,) in old.execute("SELECT name FROM session ORDER BY place").fetchall():
                yield name
    except (sqlite3.Error, ValueError):
        return


def _take_over_session(db: "sqlite3.Connection", old: "sqlite3.Connection", name: str) -> None:
    row = old.execute("SELECT * FROM session WHERE name = ?", (name,)).fetchone()
    head = row[1]
    if insert(db, None, messages_of(old, chain(old, head))) != head:
        raise ValueError("something in it has changed")
    db.execute(f"INSERT INTO session VALUES ({', '.join('?' * len(row))})", row)
    db.execute("UPDATE clock SET place = max(place, ?), elapsed = max(elapsed, ?)", (row[-1], row[-2]))
