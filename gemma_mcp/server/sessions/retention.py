"""What is kept for how long: an age, a number, a size. The session that was quiet longest goes first.

The age does not trust the clock of the machine. It counts the time between one use of the store and the next, and of
each such span no more than a week: a clock that jumps by years costs a week, one that jumps back costs nothing.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gemma_mcp.server.sessions.messages import collect
from gemma_mcp.settings import SessionSettings

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Limits", "Moment", "delete", "retain", "shrink", "size_of", "tick"]

LONGEST_SPAN = 7 * 86400.0


@dataclass(frozen=True)
class Limits:
    """`keep_seconds`: how long a session may be quiet, 0 for ever. `max_bytes`: of the file, as far as it is in use."""

    keep_seconds: float
    max_bytes: int
    max_sessions: int

    @classmethod
    def of(cls, settings: SessionSettings) -> "Limits":
        """As the user set them."""
        return cls(settings.keep_days * 86400, settings.max_bytes, settings.max_sessions)


@dataclass(frozen=True)
class Moment:
    """A use of the store: when, by the store's own count of seconds; its place in the order of uses; the wall clock."""

    elapsed: float
    place: int
    wall: float


def tick(db: "sqlite3.Connection") -> Moment:
    """Note that the store is used now."""
    elapsed, wall, place = db.execute("SELECT elapsed, wall, place FROM clock").fetchone()
    now = time.time()
    span = min(max(0.0, now - wall), LONGEST_SPAN) if wall else 0.0
    moment = Moment(elapsed + span, place + 1, now)
    db.execute("UPDATE clock SET elapsed = ?, wall = ?, place = ?", (moment.elapsed, now, moment.place))
    return moment


def retain(db: "sqlite3.Connection", limits: Limits, moment: Moment, keep: str = "") -> list[str]:
    """Delete what is beyond the limits, but never the session `keep`. Returns the names."""
    oldest = db.execute("SELECT name, quiet_since FROM session WHERE name != ? ORDER BY place", (keep,)).fetchall()
    excess = len(oldest) + bool(keep) - limits.max_sessions
    gone: list[str] = []
    for name, quiet_since in oldest:
        expired = limits.keep_seconds and moment.elapsed - quiet_since > limits.keep_seconds
        if not expired and len(gone) >= excess and size_of(db) <= limits.max_bytes:
            break
        delete(db, name)
        gone.append(name)
    return gone


def delete(db: "sqlite3.Connection", name: str) -> bool:
    """Delete a session and what only it needs. False when there is none of that name."""
    found = db.execute("DELETE FROM session WHERE name = ? RETURNING head", (name,)).fetchone()
    if found is None:
        return False
    collect(db, found[0])
    return True


def size_of(db: "sqlite3.Connection") -> int:
    """Bytes of the file that are in use."""
    pages, free, size = (_pragma(db, name) for name in ("page_count", "freelist_count", "page_size"))
    return (pages - free) * size


def shrink(db: "sqlite3.Connection") -> None:
    """Give the space of what was deleted back to the disk."""
    db.execute("PRAGMA incremental_vacuum").fetchall()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _pragma(db: "sqlite3.Connection", name: str) -> int:
    return db.execute(f"PRAGMA {name}").fetchone()[0]
