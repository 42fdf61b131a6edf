"""Find the user's engine, prove that it is ours, start or replace it where needed."""

import contextlib
import hmac
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import httpx2
import msgspec
from filelock import FileLock, Timeout

import gemma_mcp
from gemma_mcp.client.launch import EngineProcess, engine_lives, kill_engine, launch
from gemma_mcp.errors import RemoteError
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.state import (
    EngineState,
    Health,
    fingerprint,
    new_nonce,
    private_folder,
    proof,
    read_state,
    start_lock_path,
    state_path,
    unusable,
)
from gemma_mcp.wire import WIRE_VERSION

__all__ = ["Connector"]

HANDSHAKE_SECONDS = 5.0
"""An engine answers at once; one that does not within this time hangs, or the machine is very busy."""
END_SECONDS = 15.0
"""How long an engine may take from its last request to its end: models are unloaded, a worker that hangs is killed."""
POLL_SECONDS = 0.05
START_ATTEMPTS = 2

logger = logging.getLogger(__name__)


class Connector:
    """Leads to an engine. No token and no prompt goes to a listener that has not proved to be the one."""

    def __init__(
        self, settings: Settings, places: Places, environ: Mapping[str, str], http: httpx2.AsyncClient
    ) -> None:
        self._settings = settings
        self._places = places
        self._environ = environ
        self._http = http
        self._fingerprint = fingerprint(settings, gemma_mcp.__version__)

    def same_settings(self, state_fingerprint: str) -> bool:
        """Whether an engine of that fingerprint does what one that is started now would do."""
        return state_fingerprint == self._fingerprint

    async def find(self) -> EngineState | None:
        """The engine that is running, of whatever version; None when there is none."""
        state = read_state(self._places)
        return state if state is not None and await self._proves(state) else None

    async def connect(self) -> EngineState:
        """The engine, started if there is none, replaced if it is older than this program.

        Raises RemoteError when it does not start, does not answer or is newer; ConfigError when files are unusable.
        """
        state = await self.find()
        if state is not None and state.wire_version == WIRE_VERSION:
            return state
        async with self._start_lock():
            state = await self.find()
            if state is not None and state.wire_version > WIRE_VERSION:
                raise _newer(state)
            if state is not None and state.wire_version < WIRE_VERSION:
                await self._drain(state)
                state = None
            if state is None:
                await self.refuse_silent()
            return state or await self._start()

    async def _proves(self, state: EngineState) -> bool:
        nonce = new_nonce()
        try:
            with anyio.fail_after(HANDSHAKE_SECONDS):
                reply = await self._http.get(f"{state.url}/health", params={"nonce": nonce})
            health = msgspec.json.decode(reply.content, type=Health)
        except (httpx2.HTTPError, TimeoutError, ValueError):
            return False
        expected = proof(state.token, nonce)
        return health.proof is not None and hmac.compare_digest(health.proof.encode(), expected.encode())

    async def kill_silent(self) -> bool:
        """End an engine that is there but does not answer. False when there is none. Raises RemoteError."""
        state = await self._silent()
        if state is None:
            return False
        await self._kill(state)
        return True

    async def refuse_silent(self) -> None:
        """Raise RemoteError when there is an engine that does not answer: it keeps its lock, so none can start."""
        state = await self._silent()
        if state is None:
            return
        why = f"did not answer within {HANDSHAKE_SECONDS:g} seconds"
        if read_state(self._places) is None:
            why = f"cannot be trusted: others may read or write {state_path(self._places)}"
        raise RemoteError(
            f"The engine (process {state.pid}) is running, but {why}.",
            "Try again if the machine is busy; `gemma-mcp engine stop` ends it, and the next call starts a new one.",
        )

    async def _silent(self) -> EngineState | None:
        """Of an engine that lives; whoever asks has just had no answer from it."""
        state = read_state(self._places, trusted=False)
        if state is None or not await self._lives(state):
            return None
        return state

    async def _lives(self, state: EngineState) -> bool:
        return await anyio.to_thread.run_sync(engine_lives, state, self._places)

    async def _kill(self, state: EngineState) -> None:
        if not await anyio.to_thread.run_sync(kill_engine, state, self._places):
            raise RemoteError(f"The engine (process {state.pid}) could not be ended.", "End that process by hand.")

    async def ended(self, state: EngineState) -> None:
        """Return when the process of an engine that was told to end is gone. One that stays is killed."""
        await self.gone(state)
        with anyio.move_on_after(END_SECONDS):
            while await self._lives(state):  # noqa: ASYNC110 (another process that ends tells no event)
                await anyio.sleep(POLL_SECONDS)
            return
        await self._kill(state)

    async def gone(self, state: EngineState) -> None:
        """Return when the engine takes no more requests, or does not seem to obey."""
        with anyio.move_on_after(self._settings.engine.start_timeout):
            while self._is_current(state):  # noqa: ASYNC110 (a file that another process removes tells no event)
                await anyio.sleep(POLL_SECONDS)

    def _is_current(self, state: EngineState) -> bool:
        now = read_state(self._places)
        return now is not None and now.token == state.token

    async def _drain(self, state: EngineState) -> None:
        logger.info("The engine of version %s is replaced", state.version)
        headers = {"authorization": f"Bearer {state.token}"}
        with contextlib.suppress(httpx2.TransportError):  # gone by itself
            await self._http.post(f"{state.url}/shutdown", params={"drain": "1"}, headers=headers)
        await self.gone(state)

    async def _start(self) -> EngineState:
        """Once more for an engine that ended without a word: something killed it."""
        for attempt in range(1, START_ATTEMPTS + 1):
            process = await anyio.to_thread.run_sync(launch, self._settings, self._places, self._environ)
            state = await self._ready(process)
            if state is not None:
                return state
            if not process.ended or process.last_words() or attempt == START_ATTEMPTS:
                raise self._not_started(process)
        raise AssertionError("unreachable")

    async def _ready(self, process: EngineProcess) -> EngineState | None:
        """The engine when it answers; None when it ended, or takes too long."""
        with anyio.move_on_after(self._settings.engine.start_timeout):
            while not process.ended:
                state = await self.find()
                if state is not None:
                    return state
                await anyio.sleep(POLL_SECONDS)
            return await self.find()  # somebody may have started one by hand in the same moment
        return None

    def _not_started(self, process: EngineProcess) -> RemoteError:
        if process.ended:
            why = process.last_words() or "it said nothing"
            return RemoteError(
                f"The engine did not start: {why.removesuffix('.')}.",
                f"Its log is in {self._places.logs}; `gemma-mcp engine stop` ends one that does not answer.",
            )
        return RemoteError(
            f"The engine (process {process.pid}) was not ready within {self._settings.engine.start_timeout:g} seconds.",
            "Try again, or raise engine.start_timeout.",
        )

    @asynccontextmanager
    async def _start_lock(self) -> AsyncGenerator[None]:
        """One at a time starts engines. Tried again and again, so that a cancelled caller leaves no thread waiting."""
        private_folder(self._places.state)
        lock = FileLock(start_lock_path(self._places), timeout=0, thread_local=False)
        while True:
            try:
                lock.acquire()
                break
            except Timeout:
                await anyio.sleep(POLL_SECONDS)
            except OSError as error:
                raise unusable(start_lock_path(self._places), error) from error
        try:
            yield
        finally:
            lock.release()


def _newer(state: EngineState) -> RemoteError:
    return RemoteError(
        f"The running engine is of version {state.version}, newer than this program ({gemma_mcp.__version__}).",
        "Restart the client, or end the engine with `gemma-mcp engine stop`.",
    )
