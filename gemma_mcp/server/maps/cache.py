"""Results of all jobs by the key of their question: one SQLite file of the user, bounded, the least recently used go.

It spares work and is needed for nothing: what is wrong with it is told, and the work is done.
"""

import contextlib
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gemma_mcp.errors import GemmaError
from gemma_mcp.server.maps.rows import Row
from gemma_mcp.settings import MapSettings
from gemma_mcp.state import make_private_file

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["CacheError", "ResultCache"]

VERSION = 1
PRIMARY = 0xFF
DAMAGED = (1, 11, 26)
"""SQLite's primary result codes ERROR (no such table or column), CORRUPT and NOTADB: sqlite.org/rescode.html."""

BUSY_SECONDS = 2.0
AT_ONCE = 500
"""Keys of one query; SQLite takes 999 parameters at least."""

KEPT_SHARE = 0.9
"""When the limit is passed it is shortened to this part of it, so that this is not due with every row."""


class CacheError(GemmaError):
    """The cache is no use just now."""


@dataclass(frozen=True)
class ResultCache:
    """The file. Every method opens it anew, blocks for milliseconds, and raises CacheError."""

    path: Path
    max_bytes: int
    keep_days: float

    @classmethod
    def configured(cls, folder: Path, settings: MapSettings) -> "ResultCache":
        """As the user set it."""
        return cls(folder / "cache.sqlite3", settings.cache_bytes, settings.keep_days)

    def find(self, keys: Sequence[str]) -> Mapping[str, Row]:
        """The results that are known of these."""
        if not keys or not self.path.exists():
            return {}
        found: dict[str, Row] = {}
        with self._transaction() as connection:
            for some in (keys[first : first + AT_ONCE] for first in range(0, len(keys), AT_ONCE)):
                marks = ", ".join("?" * len(some))
                query = f"UPDATE result SET used = ? WHERE key IN ({marks}) RETURNING key, row"
                for key, row in connection.execute(query, (time.time(), *some)).fetchall():
                    with contextlib.suppress(msgspec.DecodeError):
                        found[key] = msgspec.json.decode(row, type=Row)
        return found

    def keep(self, rows: Iterable[Row]) -> None:
        """Add results, and let go of what is beyond the limits."""
        values = [(row.key, msgspec.json.encode(row), time.time()) for row in rows]
        with self._transaction(create=True) as connection:
            connection.executemany("INSERT OR REPLACE INTO result (key, row, used) VALUES (?, ?, ?)", values)
            self._prune(connection)

    def _prune(self, connection: "Connection") -> None:
        if self.keep_days:
            connection.execute("DELETE FROM result WHERE used < ?", (time.time() - self.keep_days * 86400,))
        if _size(connection) <= self.max_bytes:
            return
        while (size := _size(connection)) > self.max_bytes * KEPT_SHARE:
            (count,) = connection.execute("SELECT count(*) FROM result").fetchone()
            if not count:
                return
            excess = max(1, int(count * (size - self.max_bytes * KEPT_SHARE) / size))
            query = "DELETE FROM result WHERE key IN (SELECT key FROM result ORDER BY used LIMIT ?)"
            connection.execute(query, (excess,))

    @contextmanager
    def _transaction(self, *, create: bool = False) -> "Generator[Connection]":
        import sqlite3

        try:
            if create:
                make_private_file(self.path)
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("BEGIN IMMEDIATE")
                _prepare(connection, self.path)
                yield connection
                connection.execute("COMMIT")
                connection.executescript("PRAGMA incremental_vacuum")
        except sqlite3.Error as error:
            if error.sqlite_errorcode & PRIMARY in DAMAGED:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            raise _unusable(self.path, str(error)) from error
        except OSError as error:
            raise _unusable(self.path, error.strerror or str(error)) from error


def _prepare(connection: "Connection", path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise _unusable(path, "the file was written by a newer gemma-mcp")
    if version < VERSION:
        connection.execute("CREATE TABLE result (key TEXT PRIMARY KEY, row BLOB NOT NULL, used REAL NOT NULL)")
        connection.execute("CREATE INDEX result_used ON result (used)")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _size(connection: "Connection") -> int:
    """Bytes of the file that are in use."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _unusable(path: Path, why: str) -> CacheError:
    return CacheError(f"The cache of results {path.name} was not used: {why.lower()}.", "Results are computed anew.")
