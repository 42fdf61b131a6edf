"""A worker's process and its two pipes, on asyncio's own callbacks.

A reply reaches its caller in the very turn of the loop that read it. Streams need several tasks' wake-ups for that,
which every token of every reply would pay.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import anyio
import msgspec

from gemma_mcp.engine import frames

__all__ = ["WorkerProcess", "spawn_worker"]

MAX_FRAME_BYTES = 1 << 30

END_SECONDS = 3.0
"""How long a worker whose pipes are closed may take to end."""

STDIN, STDOUT = 0, 1

READ_BYTES = 1 << 16
"""At a time. For the 256 KiB that asyncio asks for glibc maps memory anew with each read: 16 us instead of 1."""

logger = logging.getLogger(__name__)


class WorkerProcess(asyncio.SubprocessProtocol):
    """The process at the other end of the pipes. Made by `spawn_worker`; `on_reply` is told of each reply.

    It counts as gone as soon as it closes its pipe or sends what is no reply.
    """

    def __init__(self) -> None:
        self.on_reply: Callable[[frames.Reply], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self._received = bytearray()
        self._gone = asyncio.Event()
        self._exited = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None

    # --- asyncio's callbacks ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        stdin, stdout = transport.get_pipe_transport(STDIN), transport.get_pipe_transport(STDOUT)
        assert isinstance(stdin, asyncio.WriteTransport)
        self._stdin = stdin
        if hasattr(stdout, "max_size"):
            cast("Any", stdout).max_size = READ_BYTES

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """See asyncio."""
        if self._gone.is_set():
            return
        self._received += data
        try:
            for reply in self._replies():
                if self.on_reply is not None:
                    self.on_reply(reply)
        except (msgspec.DecodeError, OverflowError):
            logger.warning("The worker sent what is no reply.")
            self._lose()

    def _replies(self) -> list[frames.Reply]:
        """Those that have come whole. Raises OverflowError and msgspec.DecodeError."""
        replies: list[frames.Reply] = []
        received, start, head = self._received, 0, frames.HEADER.size
        while len(received) >= start + head:
            (size,) = frames.HEADER.unpack_from(received, start)
            if size > MAX_FRAME_BYTES:
                raise OverflowError
            end = start + head + size
            if len(received) < end:
                break
            replies.append(frames.decode_reply(bytes(received[start + head : end])))
            start = end
        del received[:start]
        return replies

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """See asyncio."""
        if fd == STDOUT:
            self._lose()

    def process_exited(self) -> None:
        """See asyncio."""
        self._exited.set()

    def _lose(self) -> None:
        if not self._gone.is_set():
            self._gone.set()
            if self.on_gone is not None:
                self.on_gone()

    # --- for the host -----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._transport is not None
        return self._transport.get_pid()

    @property
    def alive(self) -> bool:
        """Whether its pipe is still open."""
        return not self._gone.is_set()

    async def gone(self) -> None:
        """Return when the pipe is closed."""
        await self._gone.wait()

    async def exit_code(self, seconds: float) -> int | None:
        """As subprocess.Popen.returncode has it; None when it has not ended in so many seconds."""
        assert self._transport is not None
        with anyio.move_on_after(seconds):
            await self._exited.wait()
        return self._transport.get_returncode()

    def send(self, command: frames.Command) -> None:
        """What the pipe does not take at once goes as the worker reads; to a dead one it goes nowhere."""
        if not self._gone.is_set():
            assert self._stdin is not None
            self._stdin.write(frames.pack(command))

    def kill(self) -> None:
        """End it at once."""
        assert self._transport is not None
        with suppress(ProcessLookupError):  # it has just ended by itself
            self._transport.kill()

    async def end(self) -> None:
        """Close its pipes, which it takes as the order to end, and kill it if it does not."""
        assert self._transport is not None
        assert self._stdin is not None
        self._stdin.close()
        if await self.exit_code(END_SECONDS) is None:
            self.kill()
            await self._exited.wait()
        self._transport.close()


@asynccontextmanager
async def spawn_worker(command: Sequence[str], log: Path) -> AsyncGenerator[WorkerProcess]:
    """The process; what it prints is appended to `log`. Leaving ends it."""
    with _open_log(log) as stderr:
        _, process = await asyncio.get_running_loop().subprocess_exec(
            WorkerProcess,
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(),
            start_new_session=sys.platform != "win32",  # Ctrl-C in the engine's terminal is not for the worker
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await process.end()


def _environment() -> dict[str, str]:
    # GGML_NO_BACKTRACE keeps ggml from attaching a debugger to a process that it is about to abort.
    return {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}


def _open_log(path: Path) -> BinaryIO:
    """A log that cannot be written, for a full disk, is no reason not to load a model."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error)
        return Path(os.devnull).open("ab")
