"""The engine's HTTP server, which ends itself and says when it listens and when it has stopped."""

import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from gemma_mcp.errors import ConfigError
from gemma_mcp.listening import QuietServer, listening_socket

__all__ = ["DRAIN_SECONDS", "EngineServer", "bind"]

DRAIN_SECONDS = 600
"""How long requests that are under way may take to finish when the engine is asked to drain."""


def bind(port: int) -> socket.socket:
    """A socket on loopback; 0 takes any free port. Raises ConfigError when the port is taken."""
    try:
        return listening_socket("127.0.0.1", port)
    except OSError as error:
        raise ConfigError(
            "settings", "engine.port", f"port {port} cannot be used ({error.strerror})", "Set it to 0 for a free one."
        ) from error


class EngineServer(QuietServer):
    """Calls `on_open` when it listens and `on_close` when it has stopped listening, before it drains."""

    def __init__(self, app: ASGIApp, on_open: Callable[[], None], on_close: Callable[[], None]) -> None:
        super().__init__(app, drain_seconds=DRAIN_SECONDS)
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
