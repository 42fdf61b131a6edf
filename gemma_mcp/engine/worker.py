"""The worker process: one loaded model behind a pair of pipes.

The main thread owns the runtime. A second thread reads the pipe and never does anything long, so that an interrupt gets
through; a third one encodes prompts, which takes seconds for the largest, while steps go on. Whatever native code
prints goes to the log, never onto the pipe.
"""

import importlib.metadata
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from gemma_mcp.engine import frames
from gemma_mcp.engine.backend import Backend, Executor, StepResult
from gemma_mcp.errors import BackendError, GemmaError, LoadFailedError, StepFailedError, describe

__all__ = ["Worker", "claim_pipes", "main"]

GRACE_SECONDS = 5.0
"""How long a worker whose engine is gone may take to free its model before it simply ends."""

log = logging.getLogger(__name__)


class Worker:
    """Serves one model to whoever holds the other ends of `commands` and `replies`."""

    def __init__(self, commands: BinaryIO, replies: BinaryIO, find_backend: Callable[[str], Backend]) -> None:
        self._commands = commands
        self._replies = replies
        self._find_backend = find_backend
        self._sending = threading.Lock()
        self._last_step = 0
        self._work: queue.SimpleQueue[frames.Open | frames.Run | None] = queue.SimpleQueue()
        self._aside: queue.SimpleQueue[frames.Encode | frames.Decode | frames.Release] = queue.SimpleQueue()

    def run(self) -> None:
        """Load the model that the first command names and serve it until the pipe ends."""
        load = self._receive()
        if not isinstance(load, frames.Load):
            return
        executor = self._load(load)
        if executor is None:
            return
        try:
            self._send(frames.Ready(executor.info))
            threading.Thread(target=self._listen, args=(executor,), daemon=True).start()
            threading.Thread(target=self._answer, args=(executor,), daemon=True).start()
            while (command := self._work.get()) is not None:
                self._serve(executor, command)
        finally:
            executor.close()

    def _load(self, load: frames.Load) -> Executor | None:
        try:
            backend = self._find_backend(load.backend)
            return backend.load(load.spec, load.options, lambda fraction: self._send(frames.Loading(fraction)))
        except GemmaError as error:
            self._send(frames.Failed(0, describe(error)))
        except Exception as error:
            log.exception("loading failed")
            why = f"{type(error).__name__}: {error}"
            self._send(frames.Failed(0, describe(LoadFailedError(load.spec.name, why, "The worker's log has more."))))
        return None

    def _serve(self, executor: Executor, command: frames.Open | frames.Run) -> None:
        try:
            if isinstance(command, frames.Open):
                executor.open(command.slot, command.options)
                self._send(frames.Opened(command.call))
            else:
                self._send(frames.Ran(command.call, self._step(executor, command)))
        except Exception as error:
            self._fail(command.call, error, StepFailedError)

    def _step(self, executor: Executor, command: frames.Run) -> StepResult:
        try:
            return executor.step(command.step)
        finally:
            self._last_step = command.call  # an interrupt that comes later is for nobody

    def _listen(self, executor: Executor) -> None:
        while (command := self._receive()) is not None:
            match command:
                case frames.Open() | frames.Run():
                    self._work.put(command)
                case frames.Encode() | frames.Decode() | frames.Release():
                    self._aside.put(command)
                case frames.Interrupt():
                    if command.call > self._last_step:
                        executor.interrupt()
                case frames.Load():
                    log.error("a second model was asked for")
        executor.interrupt()
        self._work.put(None)
        deadline = threading.Timer(GRACE_SECONDS, os._exit, (1,))
        deadline.daemon = True
        deadline.start()

    def _answer(self, executor: Executor) -> None:
        while True:
            command = self._aside.get()
            match command:
                case frames.Release():
                    executor.release(command.media)
                case frames.Encode():
                    self._attempt(command.call, partial(self._encode, executor, command))
                case frames.Decode():
                    self._attempt(command.call, partial(self._decode, executor, command))

    def _encode(self, executor: Executor, command: frames.Encode) -> frames.Reply:
        return frames.Encoded(command.call, tuple(executor.encode(command.segments)))

    def _decode(self, executor: Executor, command: frames.Decode) -> frames.Reply:
        return frames.Decoded(command.call, executor.decode(command.tokens))

    def _attempt(self, call: int, answer: Callable[[], frames.Reply]) -> None:
        try:
            self._send(answer())
        except Exception as error:
            self._fail(call, error, BackendError)

    def _fail(self, call: int, error: Exception, otherwise: type[BackendError]) -> None:
        if not isinstance(error, GemmaError):
            log.error("a call failed", exc_info=error)
            error = otherwise(f"The runtime failed: {type(error).__name__}: {error}.", "The worker's log has more.")
        self._send(frames.Failed(call, describe(error)))

    def _send(self, reply: frames.Reply) -> None:
        with self._sending:
            try:
                self._replies.write(frames.pack(reply))
                self._replies.flush()
            except OSError:
                log.info("the engine is gone")

    def _receive(self) -> frames.Command | None:
        header = self._commands.read(frames.HEADER.size)
        if len(header) < frames.HEADER.size:
            return None
        (size,) = frames.HEADER.unpack(header)
        body = self._commands.read(size)
        return frames.decode_command(body) if len(body) == size else None


def find_backend(name: str) -> Backend:
    """The backend that an installed distribution declares under this name. Raises BackendError for an unknown one."""
    points = importlib.metadata.entry_points(group="gemma_mcp.backends")
    if name not in points.names:
        raise BackendError(f"There is no backend {name!r}.", f"Installed: {', '.join(sorted(points.names))}.")
    return points[name].load()()


def claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take the pipes off fd 0 and 1, so that native code which reads or prints cannot touch them."""
    commands, replies = os.dup(0), os.dup(1)  # not inheritable: no child of the runtime can hold them open
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return os.fdopen(commands, "rb", 1 << 16), os.fdopen(replies, "wb", 1 << 16)


def main() -> None:
    """Entry point of `python -m gemma_mcp.engine.worker`; started by the engine alone."""
    commands, replies = claim_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine decides when a worker ends
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    Worker(commands, replies, find_backend).run()


if __name__ == "__main__":
    main()
