"""A terminal of 100 columns in which a program runs as it would before a user: one reads its screen and types."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pyte

__all__ = ["Terminal", "in_terminal"]

COLUMNS, LINES = 100, 40

SECONDS = 40
"""After which a test gives up on what it waits for."""


class Terminal:
    """The user's side of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._news = threading.Condition()
        self._text = ""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Read until the program has closed its side; Linux reports that as an error."""
        with contextlib.suppress(OSError):
            while data := os.read(self._descriptor, 65536):
                self._stream.feed(data)
                with self._news:
                    self._text = "\n".join(line.rstrip() for line in self._screen.display).replace("\xa0", " ")
                    self._news.notify_all()

    def wait_for(self, words: str, times: int = 1) -> None:
        """Wait until these words stand on the screen so many times. Spaces that do not break count as spaces."""
        with self._news:
            if not self._news.wait_for(lambda: self._text.count(words) >= times, SECONDS):
                raise AssertionError(f"{words!r} is not on the screen:\n{self._text}")

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def press_return(self) -> None:
        self.type("\r")

    def press_escape(self) -> None:
        self.type("\x1b")


@contextlib.contextmanager
def in_terminal(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Generator[Terminal]:
    """The program in a terminal; it is ended when the block is left, as by closing the window."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    try:
        yield Terminal(ours)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        os.close(ours)
