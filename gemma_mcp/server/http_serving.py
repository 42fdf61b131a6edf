"""Serves over HTTP until the user ends it."""

import ipaddress
import os
import signal
import socket
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from types import FrameType

from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp

from gemma_mcp.client.pool import EnginePool
from gemma_mcp.errors import ConfigError
from gemma_mcp.listening import SIGNALS, QuietServer, listening_socket
from gemma_mcp.places import Places
from gemma_mcp.server.app import build_server
from gemma_mcp.server.http_app import MCP_PATH, allowed_names, max_body_bytes, mcp_app
from gemma_mcp.server.http_clients import HttpClient, Tokens, configured_clients, maps_of, sessions_of
from gemma_mcp.server.http_door import Door, for_pages
from gemma_mcp.settings import HttpSettings
from gemma_mcp.settings_sources import LoadedSettings

__all__ = ["HttpService"]

GRACE = 0.15
"""Seconds between a signal and the end, for what the loop can still send and close."""

WILDCARDS = ("0.0.0.0", "::")


class HttpService:
    """A server for each configured client behind one address, all on one pool. Raises ConfigError when made."""

    def __init__(self, loaded: LoadedSettings, places: Places) -> None:
        settings = loaded.settings
        self.clients = configured_clients(settings)
        self.tokens = Tokens(places).of(client.name for client in self.clients)
        self.listener = _bind(settings.http)
        for number in SIGNALS:  # until it serves there is nothing to close
            signal.signal(number, _exit_now)
        self._settings = settings
        self._origins = loaded.origins
        self._places = places

    @property
    def remote(self) -> bool:
        """Whether other machines can reach it."""
        return not _is_loopback(self._settings.http.host)

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = self._settings.http.host
        if host in WILDCARDS:
            host = self._settings.http.allowed_hosts[0].partition(":")[0]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.listener.getsockname()[1]}{MCP_PATH}"

    async def serve(self) -> None:
        """Serve until a signal comes."""
        security = _security(self._settings.http)
        async with EnginePool(self._settings, self._places) as pool, AsyncExitStack() as stack:
            apps = {self.tokens[one.name]: await self._open(one, pool, security, stack) for one in self.clients}
            door = for_pages(Door(apps, security), self._settings.http.allowed_origins)
            await _Server(door).serve([self.listener])

    async def _open(
        self, client: HttpClient, pool: EnginePool, security: TransportSecuritySettings, stack: AsyncExitStack
    ) -> ASGIApp:
        places = replace(
            self._places,
            sessions=sessions_of(client.name, self._settings, self._places),
            maps=maps_of(client.name, self._settings, self._places),
        )
        server = build_server(pool, self._settings, client.root, places, origins=self._origins)
        app = mcp_app(server, security, max_body_bytes(self._settings.server))
        await stack.enter_async_context(app.router.lifespan_context(app))
        return app


class _Server(QuietServer):
    """uvicorn, except that a signal ends it at once: calls that run are dropped, which frees their place in the engine.

    Clients learn it from their closed connection, as they do from a stdio server's closed pipe.
    """

    def __init__(self, app: ASGIApp) -> None:
        # Anybody who can connect could fill the log with requests that are none.
        super().__init__(app, log_level="error")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        self.should_exit = self.force_exit = True
        threading.Thread(target=_exit_soon, daemon=True).start()


def _exit_now(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _exit_soon() -> None:
    """Whatever still runs then is not waited for."""
    time.sleep(GRACE)
    os._exit(0)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _security(given: HttpSettings) -> TransportSecuritySettings:
    own = () if given.host in WILDCARDS else (f"[{given.host}]" if ":" in given.host else given.host,)
    return allowed_names((*own, *given.allowed_hosts), given.allowed_origins)


def _bind(given: HttpSettings) -> socket.socket:
    """The socket. Raises ConfigError when the address must not or cannot be used."""
    if not _is_loopback(given.host) and not given.allow_remote:
        why = f"other machines can reach {given.host}, and this is plain HTTP"
        raise ConfigError("settings", "http.host", why, "If you want that, set http.allow_remote to true.")
    if given.host in WILDCARDS and not given.allowed_hosts:
        why = f"with {given.host} the names under which clients ask must be given"
        raise ConfigError("settings", "http.allowed_hosts", why, 'Example: ["gemma.lan"].')
    try:
        return listening_socket(given.host, given.port)
    except OSError as error:
        why = f"{given.host} port {given.port} cannot be used ({error.strerror or error})"
        raise ConfigError(
            "settings", "http.port", why, "Set http.port to another one, or to 0 for a free one."
        ) from None
