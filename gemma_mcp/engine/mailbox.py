"""An unbounded queue with one reader: what a job sends to whoever asked for it."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items in order; iterating ends after `close`. It never blocks the sender, and needs no closing by the reader.

    A memory object stream does the same at several times the price, which every token of every reply would pay.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()  # looked up once: until Python 3.12 each look is a system call
        self._items: deque[T] = deque()
        self._closed = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Send an item; after `close` it is dropped."""
        if not self._closed:
            self._items.append(item)
            self._wake()

    def close(self, error: Exception | None = None) -> None:
        """Send nothing any more. The reader gets what was sent, then the error if there is one."""
        if not self._closed:
            self._closed, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def __aiter__(self) -> "Mailbox[T]":
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._reader = self._loop.create_future()
            await self._reader
        return self._items.popleft()
