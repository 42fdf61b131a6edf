"""Keeps a client that never reads stderr from stopping the server: after 64 KiB a pipe blocks whoever writes to it."""

import contextlib
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Generator

__all__ = ["ErrorPump"]

MOST_WAITING = 262_144
"""Bytes that are kept for a reader that is slow."""

DRAIN_SECONDS = 0.1
"""How long the end of the process waits for what is still to be written."""

READ_BYTES = 65_536


class ErrorPump:
    """Takes everything that this process and its children write to descriptor 2, and passes on what is read.

    What nobody reads is dropped, and a line says how much. Only a pipe needs it: a terminal or a file takes all.
    """

    def __init__(self) -> None:
        self._target = os.dup(2)
        self._waiting: deque[bytes] = deque()
        self._size = self._dropped = 0
        self._changed = threading.Condition()
        self._ended = False
        source, end = os.pipe()
        os.dup2(end, 2)
        os.close(end)
        threading.Thread(target=self._read, args=(source,), name="stderr-reader", daemon=True).start()
        self._writer = threading.Thread(target=self._write, name="stderr-writer", daemon=True)
        self._writer.start()

    @classmethod
    def install(cls) -> "ErrorPump | None":
        """A pump, if stderr can block."""
        try:
            mode = os.fstat(2).st_mode
        except OSError:  # there is no stderr at all
            return None
        return cls() if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None

    @classmethod
    @contextlib.contextmanager
    def passing_on(cls) -> Generator[None]:
        """A pump, if stderr can block, which is drained at the end."""
        pump = cls.install()
        try:
            yield
        finally:
            if pump is not None:
                pump.drain()

    def drain(self) -> None:
        """Pass on what was written so far, for the end of the process. Afterwards nothing is pumped any more."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        for descriptor in (2, 1):  # while a server runs, 1 leads here, too
            os.dup2(self._target, descriptor)
        self._writer.join(DRAIN_SECONDS)

    def _read(self, source: int) -> None:
        while data := os.read(source, READ_BYTES):
            with self._changed:
                if self._size + len(data) > MOST_WAITING:
                    self._dropped += len(data)
                else:
                    self._waiting.append(data)
                    self._size += len(data)
                self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _write(self) -> None:
        while data := self._next():
            with contextlib.suppress(OSError):  # nobody is there to read it
                while data:
                    data = data[os.write(self._target, data) :]

    def _next(self) -> bytes:
        """What comes next; empty when nothing will come any more."""
        with self._changed:
            while not (self._waiting or self._dropped or self._ended):
                self._changed.wait()
            if self._waiting:
                data = self._waiting.popleft()
                self._size -= len(data)
                return data
            dropped, self._dropped = self._dropped, 0
        return f"\n[{dropped:,} bytes of stderr were dropped: nobody read them]\n".encode() if dropped else b""
