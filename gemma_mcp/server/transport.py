"""The client's pipes as the SDK's streams, with an eye on clients that send without reading, or are gone.

Neither stream is on descriptor 0 or 1: these stay diverted as long as the process lives, so nothing that is printed
can reach the wire.
"""

import math
import os
import threading
from contextlib import suppress
from functools import partial
from io import BufferedReader, BufferedWriter, FileIO, RawIOBase, TextIOWrapper
from typing import Any

import anyio
import anyio.from_thread
from anyio.abc import ObjectReceiveStream
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from mcp.types import ErrorData, JSONRPCError

from gemma_mcp.engine.background import background
from gemma_mcp.server.lines import Refusal, RequestLines

__all__ = ["Pressure", "serve_pipes"]

MOST_AHEAD = 1000
"""Requests that a client may send while it does not take a message off its pipe; each holds some 40 kB."""

WEIGHTY_BYTES = 40_000
"""Bytes of a line that count like a request of their own."""

END_SECONDS = 0.3
"""Seconds after the client is gone in which the loop may end by itself: a thread stuck in a pipe holds it up."""


async def serve_pipes(server: MCPServer, source: int, sink: int) -> None:
    """Serve the client at the other ends of two descriptors until it goes."""
    pressure = Pressure()
    refused, refusals = anyio.create_memory_object_stream[Refusal](math.inf)  # `pressure` bounds it
    refuse = partial(anyio.from_thread.run_sync, refused.send_nowait)
    lines = RequestLines(BufferedReader(_Incoming(source, pressure)), refuse)
    outgoing = BufferedWriter(_Outgoing(sink, pressure))
    stdin = anyio.wrap_file(TextIOWrapper(BufferedReader(lines), encoding="utf-8", errors="replace"))
    stdout = anyio.wrap_file(TextIOWrapper(outgoing, encoding="utf-8", newline="\n"))
    async with (
        stdio_server(stdin, stdout) as (reading, writing),
        refused,
        background(partial(_answer, refusals, writing)),
    ):
        inner = server._lowlevel_server  # pyright: ignore[reportPrivateUsage] - run_stdio_async takes no streams
        await inner.run(reading, writing, inner.create_initialization_options())


async def _answer(refusals: ObjectReceiveStream[Refusal], writing: WriteStream[SessionMessage]) -> None:
    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
        async for refusal in refusals:
            about = ErrorData(code=refusal.code, message=refusal.sentence)
            await writing.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=refusal.id, error=about)))


class Pressure:
    """How far a client is ahead of what it reads. Reading its requests waits while it is too far and takes nothing."""

    def __init__(self, most: int = MOST_AHEAD) -> None:
        self._most = most
        self._ahead = 0
        self._blocked = False
        self._changed = threading.Condition()

    def came(self, data: bytes) -> None:
        """So much was read from the client."""
        with self._changed:
            self._ahead += data.count(b"\n") + len(data) // WEIGHTY_BYTES

    def wait(self) -> None:
        """Return when more may be read."""
        with self._changed:
            while self._blocked and self._ahead > self._most:
                self._changed.wait()

    def writing(self) -> None:
        """A write begins; it lasts until the client's pipe has room."""
        with self._changed:
            self._blocked = True

    def wrote(self, data: bytes) -> None:
        """It is over. Requests that never get an answer stay counted, which only matters during a write."""
        with self._changed:
            self._blocked = False
            self._ahead = max(0, self._ahead - data.count(b"\n") - len(data) // WEIGHTY_BYTES)
            self._changed.notify_all()


class _Incoming(RawIOBase):
    """The client's requests."""

    def __init__(self, descriptor: int, pressure: Pressure) -> None:
        super().__init__()
        self._file = FileIO(descriptor, "rb", closefd=False)
        self._pressure = pressure

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """What the pipe holds. Its end is the end of this process, whatever still hangs in a pipe."""
        self._pressure.wait()
        count = self._file.readinto(buffer) or 0
        if not count:
            _end_soon()
        self._pressure.came(bytes(buffer[:count]))
        return count


class _Outgoing(RawIOBase):
    """What the client is told."""

    def __init__(self, descriptor: int, pressure: Pressure) -> None:
        super().__init__()
        self._file = FileIO(descriptor, "wb", closefd=False)
        self._pressure = pressure

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any, /) -> int:
        """A client that closed its end of the pipe hears nothing any more, which ends this process."""
        self._pressure.writing()
        count = len(data)
        try:
            count = self._file.write(data)
        except OSError:
            _end_soon()
        finally:
            self._pressure.wrote(bytes(data[:count]))
        return count


def _end_soon() -> None:
    timer = threading.Timer(END_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()
