"""The user's own folder of results: private, bounded, and where the locks are that keep two calls off one file."""

import contextlib
import hashlib
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from gemma_mcp.errors import DeadlineError
from gemma_mcp.server.file_turns import FileTurns, try_lock
from gemma_mcp.server.replies import TimeBox
from gemma_mcp.settings import MapSettings
from gemma_mcp.state import private_folder

__all__ = ["ResultFolder"]

RESULTS, LOCKS = "results", "locks"


@dataclass
class ResultFolder:
    """Where results go that no call named a place for. `keep_days` 0 keeps them for ever."""

    path: Path
    keep_days: float
    max_bytes: int
    turns: FileTurns = field(default_factory=FileTurns)

    @classmethod
    def configured(cls, path: Path, settings: MapSettings) -> "ResultFolder":
        """As the user set it."""
        return cls(path, settings.keep_days, settings.max_bytes)

    def file(self, name: str) -> Path:
        """The file of results of that name. Makes the folder. Raises ConfigError when that cannot be."""
        return private_folder(private_folder(self.path) / RESULTS) / f"map-{name}.jsonl"

    @asynccontextmanager
    async def turn(self, path: Path, box: TimeBox) -> AsyncGenerator[None]:
        """Alone with a file of results, among all calls of all servers of the user.

        Raises DeadlineError when another call has it until the time box closes.
        """
        late = DeadlineError(
            f"Another call was still writing to {path.name} when the {box.seconds:g} s of this call were over.",
            "Call again in a moment: what it has computed by then is not computed again.",
        )
        async with self.turns.turn(self._lock_of(path), box, late):
            yield

    def prune(self, keep: Path) -> None:
        """Delete results that are too old or too many, those first that were not used for longest. Blocks."""
        now, size = time.time(), 0
        for path, status in _newest_first(self.path / RESULTS):
            size += status.st_size
            if (self._is_old(status, now) or size > self.max_bytes) and path != keep:
                size -= status.st_size
                self._remove(path)
        for path, status in _newest_first(self.path / LOCKS):
            if self._is_old(status, now):
                _remove_unheld(path, path)

    def _is_old(self, status: os.stat_result, now: float) -> bool:
        return self.keep_days > 0 and now - status.st_mtime > self.keep_days * 86400

    def _remove(self, path: Path) -> None:
        lock = self._lock_of(path)
        _remove_unheld(lock, path)
        _remove_unheld(lock, lock)

    def _lock_of(self, path: Path) -> Path:
        return self.path / LOCKS / f"{hashlib.sha256(str(path).encode('utf-8', 'replace')).hexdigest()[:32]}.lock"


def _remove_unheld(lock: Path, path: Path) -> None:
    """Remove a file that nobody has a turn at."""
    held = FileLock(lock, timeout=0, thread_local=False)
    if try_lock(held):
        with contextlib.suppress(OSError):  # Windows does not remove a file that is open
            path.unlink()
        held.release()


def _newest_first(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found: list[tuple[Path, os.stat_result]] = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                found.append((path, path.stat()))
    return sorted(found, key=lambda one: one[1].st_mtime, reverse=True)
