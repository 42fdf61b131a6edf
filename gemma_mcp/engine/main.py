"""The engine process: `python -m gemma_mcp.engine.main`, started by the first server that needs it, shared by all."""

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import anyio
from filelock import FileLock, Timeout

import gemma_mcp
from gemma_mcp.engine.app import build_app
from gemma_mcp.engine.logs import engine_log
from gemma_mcp.engine.service import Service, open_service, state_of
from gemma_mcp.engine.serving import EngineServer, bind
from gemma_mcp.errors import CapacityError, GemmaError
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.settings_sources import load_settings
from gemma_mcp.state import (
    EngineState,
    engine_lock_path,
    fingerprint,
    private_folder,
    read_state,
    remove_state,
    unusable,
    write_state,
)

__all__ = ["main", "run_engine"]

STATE_CHECK_SECONDS = 2.0
"""How often an engine looks for its state file; without that nobody finds the engine, and nobody can stop it."""

LOCK_SECONDS = 3.0
"""An engine that is being replaced gives up its lock within a tenth of a second."""


STOP_SECONDS = 2.0
"""How long requests may take to say that the engine was stopped. A client that does not read could take for ever."""

THREAD_SECONDS = 1.0
"""How long threads may go on when all else has ended. One may be stuck, such as in a file on a dead network drive."""


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the engine until it is told to end or has been idle for long. Returns 1 when it did not start, else 0."""
    try:
        places = Places.find(environ)
        run_engine(load_settings(environ, places=places).settings, places)
    except GemmaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run_engine(settings: Settings, places: Places) -> None:
    """Run the user's engine. Raises CapacityError when there is one already, ConfigError when its port is taken.

    The process moves into the state folder, by which it is known. Where a thread is stuck it does not return: the
    process ends here.
    """
    with engine_log(places, settings.engine) as log:
        try:
            os.chdir(private_folder(places.state))
            _run_alone(settings, places, log)
        except GemmaError as error:
            log.error("The engine does not start: %s", error)
            raise
        stuck = _stuck_threads()
        if stuck:
            log.warning("Threads that do not end are left behind: %s", ", ".join(stuck))
            os._exit(0)


def _stuck_threads() -> list[str]:
    """The names of the threads that Python would wait for at its end, and that do not end by themselves."""
    deadline = time.monotonic() + THREAD_SECONDS
    others = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in others if thread.is_alive()]


def _run_alone(settings: Settings, places: Places, log: logging.Logger) -> None:
    with ExitStack() as stack:
        lock = _locked(places)
        stack.callback(lock.release, force=True)
        listener = stack.enter_context(bind(settings.engine.port))
        port = listener.getsockname()[1]
        state = state_of(secrets.token_urlsafe(32), port, fingerprint(settings, gemma_mcp.__version__))
        log.info("gemma-mcp %s, process %d, port %d", state.version, state.pid, port)
        anyio.run(_Engine(settings, places, state, lock).run, listener)
        log.info("The engine has ended")


def _locked(places: Places) -> FileLock:
    """Held for as long as this engine takes requests."""
    private_folder(places.state)
    lock = FileLock(engine_lock_path(places), timeout=LOCK_SECONDS, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise CapacityError("An engine is running already.", "`gemma-mcp engine status` shows it.") from None
    except OSError as error:
        raise unusable(engine_lock_path(places), error) from error
    return lock


class _Engine:
    """Serves until it is stopped, by a request or a signal, or has had nothing to do for long."""

    def __init__(self, settings: Settings, places: Places, state: EngineState, lock: FileLock) -> None:
        self._settings = settings
        self._places = places
        self._state = state
        self._lock = lock
        self._failure: GemmaError | None = None
        self._open = False

    async def run(self, listener: socket.socket) -> None:
        """Serve on the socket. Models are unloaded at the end. Raises ConfigError without a state file."""
        async with open_service(self._settings, self._places, self._state) as service:
            server = EngineServer(build_app(service), lambda: self._opened(server), self._closed)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._end_when_told, service, server)
                tasks.start_soon(self._end_when_idle, service, server)
                tasks.start_soon(self._keep_state)
                await server.serve(sockets=[listener])
                tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _end_when_idle(self, service: Service, server: EngineServer) -> None:
        await service.activity.idle_for(self._settings.engine.idle_exit)
        logging.getLogger(__name__).info("Idle for %g seconds", self._settings.engine.idle_exit)
        server.end()

    async def _end_when_told(self, service: Service, server: EngineServer) -> None:
        await service.activity.ended.wait()
        server.end()
        await service.activity.stopped.wait()
        await anyio.sleep(STOP_SECONDS)
        server.cut()

    async def _keep_state(self) -> None:
        """Write the state file again when somebody has spoiled or removed it."""
        while True:
            await anyio.sleep(STATE_CHECK_SECONDS)
            found = read_state(self._places)
            if self._open and (found is None or found.token != self._state.token):
                logging.getLogger(__name__).warning("The state file was lost; it is written again")
                with suppress(GemmaError):  # tried again at the next look
                    write_state(self._places, self._state)

    def _opened(self, server: EngineServer) -> None:
        try:
            write_state(self._places, self._state)
            self._open = True
        except GemmaError as error:  # raised where no task group wraps it
            self._failure = error
            server.end()

    def _closed(self) -> None:
        """From here on the next engine may start, while this one finishes what it has begun."""
        self._open = False
        remove_state(self._places, self._state.token)
        self._lock.release(force=True)


if __name__ == "__main__":
    sys.exit(main())
