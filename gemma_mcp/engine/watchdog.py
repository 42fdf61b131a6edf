"""Ends a worker that hangs: native code may wait for a device for ever, and nothing inside its process can tell."""

import asyncio
from collections.abc import Callable
from typing import Literal

__all__ = ["Lane", "Watchdog"]

Lane = Literal["runtime", "aside"]
"""A worker's two threads that work: the one that owns the runtime, and the one that encodes prompts meanwhile."""


class Watchdog:
    """Calls `bite` when a lane that has work says nothing for so many seconds.

    Calls of one lane wait for one another in the worker, so a lane's time begins anew with each of its replies.
    """

    def __init__(self, seconds: float, bite: Callable[[], None]) -> None:
        self.seconds = seconds
        self.bit = False
        self._loop = asyncio.get_running_loop()
        self._bite = bite
        self._calls: dict[Lane, int] = {"runtime": 0, "aside": 0}
        self._since: dict[Lane, float] = {}
        self._timers: dict[Lane, asyncio.TimerHandle] = {}

    def begin(self, lane: Lane) -> None:
        """A call is under way."""
        self._calls[lane] += 1
        if self._calls[lane] == 1:
            self.heard(lane)

    def end(self, lane: Lane) -> None:
        """It is over, or its caller has left: then the next call of its lane waits behind it."""
        self._calls[lane] -= 1

    def heard(self, lane: Lane) -> None:
        """The worker lives. Every step says so, so the timer is left as it is: it looks again when it rings."""
        self._since[lane] = self._loop.time()
        if lane not in self._timers and self.seconds < float("inf"):
            self._timers[lane] = self._loop.call_later(self.seconds, self._look, lane)

    def _look(self, lane: Lane) -> None:
        del self._timers[lane]
        if not self._calls[lane]:
            return
        left = self._since[lane] + self.seconds - self._loop.time()
        if left > 0:
            self._timers[lane] = self._loop.call_later(left, self._look, lane)
            return
        self.bit = True
        self._bite()
