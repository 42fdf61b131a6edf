"""What the engine and the server listen with over HTTP: a socket made beforehand, uvicorn without its habits."""

import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

__all__ = ["SIGNALS", "QuietServer", "listening_socket"]

BACKLOG = 128

KEEP_ALIVE_SECONDS = 30

SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGBREAK,) if sys.platform == "win32" else ()))


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket at this address; port 0 takes any free one. Who comes before it is served waits. Raises OSError.

    It names its protocol: only then does asyncio let small answers go at once (TCP_NODELAY). Without, each waits some
    40 ms for a receipt of what was sent before.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform == "win32":  # without it another program may bind the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # after a restart the port is free at once
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class QuietServer(uvicorn.Server):
    """Logs nothing of its own, adds no headers, and ends its serving on a signal instead of passing the signal on."""

    def __init__(self, app: ASGIApp, *, log_level: str | None = None, drain_seconds: int | None = None) -> None:
        """`drain_seconds`: how long requests under way may take to finish at the end; None for ever."""
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                log_level=log_level,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """See uvicorn, which would raise the signal again afterwards; here the process still has to clean up."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
