"""What the engine is busy with: for its end when idle, and for stopping what runs."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from gemma_mcp.errors import CapacityError

__all__ = ["Activity"]


class Activity:
    """Counts requests under way. `ended` is set when the engine is to end, `stopped` if it is to end at once."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._changed = anyio.Event()
        self.ended = anyio.Event()
        self.stopped = anyio.Event()

    @asynccontextmanager
    async def request(self) -> AsyncGenerator[None]:
        """A request under way. Raises CapacityError when the engine is stopped meanwhile."""
        self._refuse_if_stopped()
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            self._change()
            try:
                yield
            finally:
                self._scopes.discard(scope)
                self._change()
        if scope.cancelled_caught:
            self._refuse_if_stopped()

    def end(self, *, drain: bool) -> None:
        """End the engine: with `drain` after the requests under way, without it they end now."""
        self.ended.set()
        if not drain:
            self.stopped.set()
            for scope in list(self._scopes):
                scope.cancel()

    async def idle_for(self, seconds: float) -> None:
        """Return when there was no request for so long."""
        while True:
            changed = self._changed
            if self._scopes:
                await changed.wait()
                continue
            with anyio.move_on_after(seconds) as waited:
                await changed.wait()
            if waited.cancelled_caught and not self._scopes:
                return

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _refuse_if_stopped(self) -> None:
        if self.stopped.is_set():
            raise CapacityError("The engine was stopped.", "Call again to start a new one.")
