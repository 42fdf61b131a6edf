"""The engine's side of a worker: start the process, load a model in it, call it, notice when it dies."""

import contextlib
import itertools
import logging
import math
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from gemma_mcp.engine import frames
from gemma_mcp.engine.backend import LoadOptions, ModelSpec, Piece, SlotOptions, Step, StepResult
from gemma_mcp.engine.background import background
from gemma_mcp.engine.watchdog import Lane, Watchdog
from gemma_mcp.errors import LoadFailedError, WorkerDiedError, restore
from gemma_mcp.types import ModelInfo, Segment

__all__ = ["AsyncExecutor", "WorkerHost", "start_worker"]

MAX_FRAME_BYTES = 1 << 30

logger = logging.getLogger(__name__)

GONE = (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""How a pipe says that its other end is closed."""


class AsyncExecutor(Protocol):
    """An Executor as the engine sees it. Every call raises WorkerDiedError once the worker is gone."""

    @property
    def info(self) -> ModelInfo:
        """See Executor."""
        ...

    async def encode(self, segments: Sequence[Segment]) -> tuple[Piece, ...]:
        """See Executor."""
        ...

    async def open(self, slot: int, options: SlotOptions) -> None:
        """See Executor."""
        ...

    async def step(self, step: Step) -> StepResult:
        """See Executor."""
        ...

    def interrupt(self) -> None:
        """See Executor. Does not wait."""
        ...

    def release(self, media: Sequence[int]) -> None:
        """See Executor. Does not wait."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the worker is still there."""
        ...

    async def died(self) -> None:
        """Return when the worker is gone."""
        ...


class _Call:
    """A call under way: who waits, and what came."""

    __slots__ = ("done", "lane", "reply")

    def __init__(self, lane: Lane) -> None:
        self.lane: Lane = lane
        self.done = anyio.Event()
        self.reply: frames.Reply | None = None


class WorkerHost:
    """A live worker. Made by `start_worker`."""

    def __init__(self, process: anyio.abc.Process, log: Path, spec: ModelSpec, step_timeout: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._log = log
        self._spec = spec
        self._watchdog = Watchdog(step_timeout, self._kill)
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._outbox: list[frames.Command] = []
        self._outbox_filled = anyio.Event()
        self._gone = anyio.Event()
        self._info: ModelInfo | None = None
        self._step: int | None = None

    @property
    def info(self) -> ModelInfo:
        """What the model says of itself."""
        assert self._info is not None
        return self._info

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    async def load(self, backend: str, options: LoadOptions, on_progress: Callable[[float], None]) -> None:
        """Load the model. Raises LoadFailedError, BackendMissingError or whatever the backend reported."""
        try:
            await self._stdin.send(frames.pack(frames.Load(backend, self._spec, options)))
            while not isinstance(reply := await self._receive(), frames.Ready):
                if isinstance(reply, frames.Failed):
                    raise restore(reply.error)
                if isinstance(reply, frames.Loading):
                    on_progress(reply.fraction)
        except GONE as error:
            why = f"its process ended while loading ({await self._last_words()})"
            raise LoadFailedError(self._spec.name, why, f"The log {self._log} may say more.") from error
        self._info = reply.info

    async def serve(self) -> None:
        """Bring replies to their callers and queued commands to the worker, until it is gone."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._post)
            await self._listen()
            tasks.cancel_scope.cancel()

    async def _listen(self) -> None:
        try:
            while True:
                reply = await self._receive()
                call = self._calls.pop(getattr(reply, "call", 0), None)
                if call is not None:
                    self._watchdog.heard(call.lane)
                    call.reply = reply
                    call.done.set()
        except GONE:
            pass
        finally:
            self._gone.set()
            for call in self._calls.values():
                call.done.set()

    async def _post(self) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled = anyio.Event()
            waiting, self._outbox = self._outbox, []
            try:
                await self._stdin.send(b"".join(map(frames.pack, waiting)))
            except GONE:
                return  # `_listen` notices the end as well

    @property
    def alive(self) -> bool:
        """Whether its pipe is still open."""
        return not self._gone.is_set()

    async def died(self) -> None:
        """Return when the worker is gone."""
        await self._gone.wait()

    async def encode(self, segments: Sequence[Segment]) -> tuple[Piece, ...]:
        """Executor.encode."""
        reply = await self._call(lambda number: frames.Encode(number, tuple(segments)), "aside")
        assert isinstance(reply, frames.Encoded)
        return reply.pieces

    async def decode(self, tokens: Sequence[int]) -> bytes:
        """Executor.decode."""
        reply = await self._call(lambda number: frames.Decode(number, tuple(tokens)), "aside")
        assert isinstance(reply, frames.Decoded)
        return reply.text

    async def open(self, slot: int, options: SlotOptions) -> None:
        """Executor.open."""
        await self._call(lambda number: frames.Open(number, slot, options))

    async def step(self, step: Step) -> StepResult:
        """Executor.step."""
        reply = await self._call(partial(self._run_frame, step))
        assert isinstance(reply, frames.Ran)
        self._step = None
        return reply.result

    def _run_frame(self, step: Step, number: int) -> frames.Run:
        self._step = number
        return frames.Run(number, step)

    def interrupt(self) -> None:
        """Executor.interrupt, sent as soon as the loop turns."""
        if self._step is not None:
            self._queue(frames.Interrupt(self._step))

    def release(self, media: Sequence[int]) -> None:
        """Executor.release, sent as soon as the loop turns."""
        self._queue(frames.Release(tuple(media)))

    def _queue(self, command: frames.Command) -> None:
        self._outbox.append(command)
        self._outbox_filled.set()

    async def _call(self, make: Callable[[int], frames.Command], lane: Lane = "runtime") -> frames.Reply:
        number = next(self._numbers)
        call = self._calls[number] = _Call(lane)
        try:
            if not self._gone.is_set():
                # The pipe takes a frame whole before it waits for anything, so a cancellation cannot cut one in two.
                with self._watchdog.over(lane):
                    await self._stdin.send(frames.pack(make(number)))
                    await call.done.wait()
        except GONE:
            await self._gone.wait()
        finally:
            self._calls.pop(number, None)
        if call.reply is None:
            raise WorkerDiedError(
                f"The process that held the model {self._spec.name!r} ended ({await self._last_words()}).",
                f"The log {self._log} may say more.",
            )
        if isinstance(call.reply, frames.Failed):
            raise restore(call.reply.error)
        return call.reply

    async def _receive(self) -> frames.Reply:
        (size,) = frames.HEADER.unpack(await self._stdout.receive_exactly(frames.HEADER.size))
        if size > MAX_FRAME_BYTES:
            raise anyio.BrokenResourceError
        try:
            return frames.decode_reply(await self._stdout.receive_exactly(size))
        except msgspec.DecodeError as error:
            raise anyio.BrokenResourceError from error

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            self._process.kill()

    async def _last_words(self) -> str:
        """How the process ended: its signal or exit code, or that the watchdog ended it."""
        with anyio.move_on_after(5):
            await self._process.wait()
        code = self._process.returncode
        if self._watchdog.bit:
            return f"it hung: one step took more than {self._watchdog.seconds:g} s"
        if code is None:
            return "still ending"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _command() -> list[str]:
    return [sys.executable, "-X", "utf8", "-m", "gemma_mcp.engine.worker"]


def _environment() -> dict[str, str]:
    # GGML_NO_BACKTRACE keeps ggml from attaching a debugger to a process that it is about to abort.
    return {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}


@asynccontextmanager
async def start_worker(
    backend: str,
    spec: ModelSpec,
    options: LoadOptions,
    *,
    log: Path,
    load_timeout: float = math.inf,
    step_timeout: float = math.inf,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> AsyncGenerator[WorkerHost]:
    """A worker that has loaded the model; leaving ends it. What it prints is appended to `log`.

    Raises LoadFailedError, also after `load_timeout` seconds, and what else the backend reports. A call that takes more
    than `step_timeout` seconds ends the worker, as if it had died.
    """
    async with _spawn(log) as process:
        host = WorkerHost(process, log, spec, step_timeout)
        with anyio.move_on_after(load_timeout) as box:
            await host.load(backend, options, on_progress)
        if box.cancelled_caught:
            raise LoadFailedError(spec.name, f"it took more than {load_timeout:g} s", "Raise engine.load_timeout.")
        async with background(host.serve):
            yield host


@asynccontextmanager
async def _spawn(log: Path) -> AsyncGenerator[anyio.abc.Process]:
    """The process; leaving closes its pipes, which it takes as the order to end, and kills it if it does not."""
    with _open_log(log) as stderr:
        process = await anyio.open_process(
            _command(),
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
            await _end(process)


def _open_log(path: Path) -> BinaryIO:
    """A log that cannot be written, for a full disk, is no reason not to load a model."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error)
        return Path(os.devnull).open("ab")


async def _end(process: anyio.abc.Process) -> None:
    assert process.stdin is not None
    try:
        await process.stdin.aclose()
    except (*GONE, OSError):
        pass  # it is gone already
    with anyio.move_on_after(3):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
