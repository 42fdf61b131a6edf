"""uvicorn, for a process that ends itself: it listens on a socket that is bound beforehand, and says when it does."""

import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from gemma_mcp.errors import ConfigError

__all__ = ["DRAIN_SECONDS", "EngineServer", "bind"]

DRAIN_SECONDS = 600
"""How long requests that are under way may take to finish when the engine is asked to drain."""

KEEP_ALIVE_SECONDS = 30

SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGBREAK,) if sys.platform == "win32" else ()))


def bind(port: int) -> socket.socket:
    """A socket on loopback; 0 takes any free port. Raises ConfigError when the port is taken."""
    # With its protocol named, asyncio lets small answers go at once (TCP_NODELAY); else each waits 40 ms for a receipt.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform == "win32":  # without it another program may bind the same port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:  # after a restart the port is free at once
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            "settings", "engine.port", f"port {port} cannot be used ({error.strerror})", "Set it to 0 for a free one."
        ) from error
    return listener


class EngineServer(uvicorn.Server):
    """Calls `on_open` when it listens and `on_close` when it has stopped listening, before it drains."""

    def __init__(self, app: ASGIApp, on_open: Callable[[], None], on_close: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self._on_open = on_open
        self._on_close = on_close

    def end(self) -> None:
        """Stop listening, and return from `serve` when the requests under way are done."""
        self.should_exit = True

    def cut(self) -> None:
        """Drop the requests that are still under way, whatever they wait for, and the connections of all clients."""
        self.force_exit = True
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """A signal ends the serving only (uvicorn would raise it again afterwards); the process then cleans up."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self._on_open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn. The next engine may start while this one drains."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._on_close()
        await super().shutdown(sockets)
