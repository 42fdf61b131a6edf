"""What llama.cpp and mtmd say while they work: warnings and errors go to Python's log, the rest is dropped.

Dropping matters: mtmd writes prompt text at the info level, and prompts are private.
"""

import ctypes
import functools
import logging
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager

import llama_cpp
from llama_cpp import mtmd_cpp

__all__ = ["NativeLog", "native_log"]

logger = logging.getLogger(__name__)

_WARNING, _ERROR, _CONTINUED = 3, 4, 5
"""ggml_log_level of ggml.h."""

_EXPECTED = "possible training context overflow"
"""llama.cpp warns that one slot could use the cells of all; the scheduler never lets it."""

_FALLBACK = "llama.cpp gave no reason"


class NativeLog:
    """Receives the lines of llama.cpp, from any thread, and remembers the last errors."""

    def __init__(self) -> None:
        self._thread = _Thread()
        self._callback = llama_cpp.llama_log_callback(self.write)  # C holds no reference: this one keeps it alive

    def install(self) -> None:
        """Send everything here."""
        nothing = ctypes.c_void_p(0)
        llama_cpp.llama_log_set(self._callback, nothing)
        mtmd_cpp.mtmd_helper_log_set(self._callback, nothing)  # sets mtmd's own as well

    @contextmanager
    def errors(self) -> Generator["Reasons"]:
        """The errors that this thread logs inside the block."""
        self._thread.errors.clear()
        yield Reasons(self._thread.errors)

    def write(self, level: int, text: bytes | None, data: object) -> None:
        """Take a line, or a part of one; C calls this."""
        thread = self._thread
        if level != _CONTINUED:
            thread.level, thread.text = level, ""
        if thread.level < _WARNING or text is None:
            return
        thread.text += text.decode("utf-8", "replace")
        if thread.text.endswith("\n"):
            self._finish(thread)

    def _finish(self, thread: "_Thread") -> None:
        line, thread.text = thread.text.strip(), ""
        if thread.level == _ERROR:
            thread.errors.append(line)
        if _EXPECTED not in line:
            logger.log(logging.ERROR if thread.level == _ERROR else logging.WARNING, "%s", line)


class _Thread(threading.local):
    """What one thread has said: the line it is in, and its last errors."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=32)
        self.level = 0
        self.text = ""


class Reasons:
    """Why something failed, in llama.cpp's own words."""

    def __init__(self, lines: deque[str]) -> None:
        self._lines = lines

    def __str__(self) -> str:
        """The first error, which is the cause; later ones only repeat that it failed."""
        if not self._lines:
            return _FALLBACK
        line = self._lines[0].removeprefix("llama_model_load: error loading model: ")
        function, colon, rest = line.partition(": ")
        return (rest if colon and function.isidentifier() else line).rstrip(".")


@functools.cache
def native_log() -> NativeLog:
    """The log of this process: llama.cpp has one for all models, and must never call a callback that is gone."""
    log = NativeLog()
    log.install()
    return log
