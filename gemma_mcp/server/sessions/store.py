"""The store of sessions. Its methods block for some milliseconds: call them in a thread where a loop must not wait.

Any number of processes may use one store. A turn is added with `append`, which compares the session with what the turn
was computed from, and refuses when it went on elsewhere meanwhile: no turn is lost, and none is there twice.
"""

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gemma_mcp.errors import SessionChangedError, SessionStoreError, UnknownSessionError
from gemma_mcp.server.sessions.database import FILE_NAME, damaged, full, opened, transaction
from gemma_mcp.server.sessions.messages import chain, insert, messages_of
from gemma_mcp.server.sessions.retention import Limits, Moment, delete, retain, shrink, tick
from gemma_mcp.wire import ChatMessage, TextPart

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Limits", "Session", "SessionStore", "Summary", "new_name"]

OPENING_CHARACTERS = 200
"""Of a session's first words, as lists show them."""


LEAST_FREE_BYTES = 16_000_000
"""On the disk; with less a turn is refused before it is computed rather than after."""


def new_name() -> str:
    """A name for a session; 4 billion of them."""
    return f"s-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Session:
    """A conversation as it was read. `head` is its last message; None before the first turn.

    `model` is the last one that was asked for by name, `answered_by` the last that answered. `kept` says whether the
    store knows it under this name: what `SessionStore.new` and `fork` give is kept with its next turn.
    """

    name: str
    head: str | None = None
    system: str | None = None
    model: str | None = None
    answered_by: str = ""
    messages: tuple[ChatMessage, ...] = ()
    turns: int = 0
    kept: bool = False

    def fork(self) -> "Session":
        """The same conversation under a new name, sharing its history."""
        return replace(self, name=new_name(), kept=False)


@dataclass(frozen=True)
class Summary:
    """A session in a list. `created`, `used`: seconds since the epoch. `size_bytes`: of its messages and images, those
    that it shares with others included. `opening`: its first words.
    """

    name: str
    turns: int
    answered_by: str
    created: float
    used: float
    size_bytes: int
    opening: str


SUMMARIES = """
    SELECT name, turns, answered_by, created, used, total_bytes, opening
    FROM session JOIN message ON message.id = session.head WHERE substr(name, 1, length(?1)) = ?1 ORDER BY place DESC
"""


class SessionStore:
    """Every method raises SessionStoreError, with what to do about it, when the file cannot be used."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self._limits = limits

    def summaries(self, prefix: str = "") -> list[Summary]:
        """The list: sessions whose names begin with `prefix`, the last used one first."""
        with opened(self.folder) as db:
            return [Summary(*row) for row in db.execute(SUMMARIES, (prefix,))]

    def load(self, name: str) -> Session:
        """The session with all its messages. Raises UnknownSessionError."""
        with opened(self.folder) as db:
            return self._load(db, name)

    def summary(self, name: str) -> Summary:
        """One line of the list. Raises UnknownSessionError."""
        found = next((one for one in self.summaries(name) if one.name == name), None)
        if found is None:
            raise UnknownSessionError(name)
        return found

    def new(self) -> Session:
        """A session without a turn; it is kept with its first one."""
        self.check()
        return Session(new_name())

    def fork(self, name: str) -> Session:
        """A new session that goes on from where `name` is now; kept with its next turn. Raises UnknownSessionError."""
        self.check(name)
        return self.load(name).fork()

    def check(self, name: str = "") -> None:
        """Find out, before a turn is computed, whether it could be kept. Raises UnknownSessionError for a `name` that
        is not there. Nothing is written: that would cost the disk's time twice a turn.
        """
        with opened(self.folder) as db:
            if shutil.disk_usage(self.folder).free < LEAST_FREE_BYTES:
                raise full(self.folder / FILE_NAME)
            db.execute("BEGIN IMMEDIATE")
            known = not name or db.execute("SELECT 1 FROM session WHERE name = ?", (name,)).fetchone()
            db.execute("ROLLBACK")
        if not known:
            raise UnknownSessionError(name)

    def append(
        self,
        session: Session,
        messages: Sequence[ChatMessage],
        *,
        system: str | None,
        model: str | None,
        answered_by: str,
    ) -> Session:
        """Add one turn: the messages that were new in it, the reply last. Returns the session with it.

        Sessions that are then beyond the store's limits are deleted, this one never. Raises SessionChangedError when
        the session went on, or was deleted, since it was read; then nothing is changed.
        """
        grown = replace(
            session,
            system=system,
            model=model,
            answered_by=answered_by,
            messages=(*session.messages, *messages),
            turns=session.turns + 1,
            kept=True,
        )
        with opened(self.folder) as db:
            with transaction(db):
                moment = tick(db)
                grown = replace(grown, head=self._extended(db, session, messages))
                self._keep(db, session, grown, moment)
            self._prune(db, moment, session.name)
            return grown

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete sessions. Returns those of the names that existed."""
        with opened(self.folder) as db:
            with transaction(db):
                gone = [name for name in names if delete(db, name)]
            shrink(db)
        self._remove_locks(gone)
        return gone

    def prune(self) -> list[str]:
        """Apply the limits now. Returns the names of the sessions that were deleted."""
        with opened(self.folder) as db:
            with transaction(db):
                gone = retain(db, self._limits, tick(db))
            shrink(db)
        self._remove_locks(gone)
        return gone

    def turn_lock(self, name: str) -> Path:
        """The file that is locked by whoever takes a turn of the session. Its name is made from any text safely."""
        return self.folder / "turns" / f"{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:32]}.lock"

    def _remove_locks(self, names: Sequence[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):  # Windows does not remove a file that is open
                self.turn_lock(name).unlink()

    def _load(self, db: "sqlite3.Connection", name: str) -> Session:
        columns = "head, system, model, answered_by, turns"
        found = db.execute(f"SELECT {columns} FROM session WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise UnknownSessionError(name)
        head, system, model, answered_by, turns = found
        try:
            messages = messages_of(db, chain(db, head))
        except (ValueError, KeyError):
            raise damaged(self.folder / FILE_NAME) from None
        return Session(name, head, system, model, answered_by, messages, turns, kept=True)

    def _extended(self, db: "sqlite3.Connection", session: Session, messages: Sequence[ChatMessage]) -> str:
        there = "SELECT 1 FROM message WHERE id = ?"
        if session.head is not None and db.execute(there, (session.head,)).fetchone() is None:
            raise SessionChangedError(session.name)
        head = insert(db, session.head, messages)
        assert head is not None
        return head

    def _keep(self, db: "sqlite3.Connection", before: Session, now: Session, moment: Moment) -> None:
        """Compare and set: the session is moved only from where it was."""
        state = (now.head, now.system, now.model, now.answered_by, now.turns)
        used = (moment.wall, moment.elapsed, moment.place)
        if not before.kept:
            row = (now.name, *state, _opening(now), moment.wall, *used)
            changed = db.execute(f"INSERT OR IGNORE INTO session VALUES ({', '.join('?' * len(row))})", row)
        else:
            changed = db.execute(
                "UPDATE session SET head = ?, system = ?, model = ?, answered_by = ?, turns = ?, "
                "used = ?, quiet_since = ?, place = ? WHERE name = ? AND head = ?",
                (*state, *used, now.name, before.head),
            )
        if changed.rowcount != 1:
            raise SessionChangedError(now.name)

    def _prune(self, db: "sqlite3.Connection", moment: Moment, keep: str) -> None:
        """The turn is kept already: what goes wrong here is the next one's business."""
        import sqlite3

        try:
            with transaction(db):
                gone = retain(db, self._limits, moment, keep)
            if gone:
                shrink(db)
                self._remove_locks(gone)
        except (sqlite3.Error, SessionStoreError):
            pass


def _opening(session: Session) -> str:
    """The first words of the user, files left out where they stand before them."""
    content = session.messages[0].content
    if not isinstance(content, str):
        content = " ".join(part.text for part in content if isinstance(part, TextPart))
    words = content.rpartition("</file>\n\n")[2]
    return " ".join(words.split())[:OPENING_CHARACTERS]
