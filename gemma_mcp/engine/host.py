"""The engine's side of a worker: start the process, load a model in it, call it, notice when it dies."""

import asyncio
import itertools
import math
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio

from gemma_mcp.engine import frames
from gemma_mcp.engine.backend import LoadOptions, ModelSpec, Piece, SlotOptions, Step, StepResult
from gemma_mcp.engine.pipes import WorkerProcess, spawn_worker
from gemma_mcp.engine.watchdog import Lane, Watchdog
from gemma_mcp.errors import LoadFailedError, WorkerDiedError, restore
from gemma_mcp.types import ModelInfo, Segment

__all__ = ["AsyncExecutor", "WorkerHost", "start_worker"]

LAST_WORDS_SECONDS = 5.0
"""How long to wait for the exit code of a process whose pipe is closed."""

LOADING = 0
"""The number of the one call that has none in its frames."""


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
    """A call under way: its lane of the worker, and who waits. Without a worker its reply is None."""

    __slots__ = ("lane", "reply")

    def __init__(self, lane: Lane, reply: asyncio.Future[frames.Reply | None]) -> None:
        self.lane: Lane = lane
        self.reply = reply

    def answer(self, reply: frames.Reply | None) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)


class WorkerHost:
    """A live worker. Made by `start_worker`."""

    def __init__(self, process: WorkerProcess, log: Path, spec: ModelSpec, step_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._log = log
        self._spec = spec
        self._watchdog = Watchdog(step_timeout, process.kill)
        self._numbers = itertools.count(LOADING + 1)
        self._calls: dict[int, _Call] = {}
        self._on_progress: Callable[[float], None] | None = None
        self._info: ModelInfo | None = None
        self._step = 0
        process.on_reply, process.on_gone = self._take, self._lose

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
        self._on_progress = on_progress
        call = self._calls[LOADING] = _Call("runtime", self._loop.create_future())
        self._process.send(frames.Load(backend, self._spec, options))
        reply = await call.reply if self._process.alive else None
        if reply is None:
            why = f"its process ended while loading ({await self._last_words()})"
            raise LoadFailedError(self._spec.name, why, f"The log {self._log} may say more.")
        if isinstance(reply, frames.Failed):
            raise restore(reply.error)
        assert isinstance(reply, frames.Ready)
        self._info = reply.info

    def _take(self, reply: frames.Reply) -> None:
        if isinstance(reply, frames.Loading):
            if self._on_progress is not None:
                self._on_progress(reply.fraction)
            return
        call = self._calls.get(LOADING if isinstance(reply, frames.Ready) else reply.call)
        if call is not None:
            self._watchdog.heard(call.lane)
            call.answer(reply)

    def _lose(self) -> None:
        for call in self._calls.values():
            call.answer(None)

    @property
    def alive(self) -> bool:
        """Whether its pipe is still open."""
        return self._process.alive

    async def died(self) -> None:
        """Return when the worker is gone."""
        await self._process.gone()

    async def encode(self, segments: Sequence[Segment]) -> tuple[Piece, ...]:
        """Executor.encode."""
        number = next(self._numbers)
        reply = await self._call(number, frames.Encode(number, tuple(segments)), "aside")
        assert isinstance(reply, frames.Encoded)
        return reply.pieces

    async def decode(self, tokens: Sequence[int]) -> bytes:
        """Executor.decode."""
        number = next(self._numbers)
        reply = await self._call(number, frames.Decode(number, tuple(tokens)), "aside")
        assert isinstance(reply, frames.Decoded)
        return reply.text

    async def open(self, slot: int, options: SlotOptions) -> None:
        """Executor.open."""
        number = next(self._numbers)
        await self._call(number, frames.Open(number, slot, options), "runtime")

    async def step(self, step: Step) -> StepResult:
        """Executor.step."""
        number = self._step = next(self._numbers)
        reply = await self._call(number, frames.Run(number, step), "runtime")
        assert isinstance(reply, frames.Ran)
        return reply.result

    def interrupt(self) -> None:
        """Executor.interrupt. The worker knows which step is over."""
        if self._step in self._calls:
            self._process.send(frames.Interrupt(self._step))

    def release(self, media: Sequence[int]) -> None:
        """Executor.release."""
        self._process.send(frames.Release(tuple(media)))

    async def _call(self, number: int, command: frames.Command, lane: Lane) -> frames.Reply:
        call = self._calls[number] = _Call(lane, self._loop.create_future())
        self._watchdog.begin(lane)
        try:
            self._process.send(command)
            reply = await call.reply if self._process.alive else None
        finally:
            self._watchdog.end(lane)
            del self._calls[number]
        if reply is None:
            raise WorkerDiedError(
                f"The process that held the model {self._spec.name!r} ended ({await self._last_words()}).",
                f"The log {self._log} may say more.",
            )
        if isinstance(reply, frames.Failed):
            raise restore(reply.error)
        return reply

    async def _last_words(self) -> str:
        """How the process ended: its signal or exit code, or that the watchdog ended it."""
        code = await self._process.exit_code(LAST_WORDS_SECONDS)
        if self._watchdog.bit:
            return f"it hung: one step took more than {self._watchdog.seconds:g} s"
        if code is None:
            return "still ending"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _command() -> list[str]:
    return [sys.executable, "-X", "utf8", "-m", "gemma_mcp.engine.worker"]


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
    async with spawn_worker(_command(), log) as process:
        host = WorkerHost(process, log, spec, step_timeout)
        with anyio.move_on_after(load_timeout) as box:
            await host.load(backend, options, on_progress)
        if box.cancelled_caught:
            raise LoadFailedError(spec.name, f"it took more than {load_timeout:g} s", "Raise engine.load_timeout.")
        yield host
