"""How many threads compute. They wait for one another hundreds of times a token, so each needs a core of its own: one
that another program takes away now and then makes all of them wait, and decoding many times slower.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

__all__ = ["CpuTimes", "Threads", "read_cpu_times"]

INTERVAL = 0.5
"""Seconds over which the load is averaged."""

SPARE = 0.35
"""Part of a core that others may use before a thread gives it up: servers and engines cost that little."""

_IDLE = ("idle", "iowait", "guest", "guest_nice")
"""Not busy, or counted as `user`, too."""


@dataclass(frozen=True)
class CpuTimes:
    """Seconds so far: when it was read, what all programs and what this process used of the cores it may use."""

    at: float
    cores: int
    all: float
    own: float


def read_cpu_times() -> CpuTimes:
    """The cores and this process now."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # Windows and macOS have none
        usable = range(os.cpu_count() or 1)
    cores = [times for core, times in enumerate(psutil.cpu_times(percpu=True)) if core in usable]
    busy = sum(sum(value for name, value in times._asdict().items() if name not in _IDLE) for times in cores)
    own = psutil.Process().cpu_times()
    return CpuTimes(time.monotonic(), max(1, len(cores)), busy, own.user + own.system)


class Threads:
    """`most` threads, less those whose cores other programs use. With `adapt` off always `most`."""

    def __init__(self, most: int, *, adapt: bool, read: Callable[[], CpuTimes] = read_cpu_times) -> None:
        self._most = most
        self._read = read if adapt and most > 1 else None
        self._last: CpuTimes | None = None
        self._count = most
        self._quiet = False

    def count(self) -> int:
        """How many the next pass should use."""
        if self._read is None:
            return self._most
        if self._last is None or time.monotonic() - self._last.at >= INTERVAL:
            self._look(self._read())
        return self._count

    def _look(self, now: CpuTimes) -> None:
        last, self._last = self._last, now
        if last is None or now.at - last.at < INTERVAL:
            return
        others = max(0.0, (now.all - last.all) - (now.own - last.own)) / (now.at - last.at)
        fitting = min(self._most, max(1, int(now.cores - others + SPARE)))
        if fitting <= self._count or self._quiet:
            self._count, self._quiet = fitting, False
        else:
            self._quiet = True  # twice in a row before it takes more
