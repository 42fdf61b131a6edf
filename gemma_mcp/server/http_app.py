"""MCP servers as ASGI applications: the protocol at /mcp, its own limits, and who may ask under which name."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.types import REQUEST_TIMEOUT
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.requests import Request

from gemma_mcp.engine.background import background
from gemma_mcp.settings import ServerSettings

if TYPE_CHECKING:
    from mcp.server.streamable_http import EventStore

__all__ = ["MCP_PATH", "allowed_names", "max_body_bytes", "mcp_app"]

MCP_PATH = "/mcp"

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

SESSION_IDLE_SECONDS = 1800.0
"""After which a session of the older protocol, of which nobody made use, is closed."""

MOST_SESSIONS = 256
"""Sessions of the older protocol that one client may have open; each holds a task and some queues."""

ENVELOPE_BYTES = 65_536
"""Room for what stands around the texts and images of a request."""


def mcp_app(
    server: MCPServer,
    security: TransportSecuritySettings,
    max_body: int,
    *,
    event_store: "EventStore | None" = None,
    retry_interval: int | None = None,
) -> Starlette:
    """The server at /mcp, without any token. Its lifespan must be entered: it holds the sessions and the tasks.

    Answers 421 to a Host and 403 to an Origin that `security` does not know, and 413 to more than `max_body` bytes.
    `event_store` and `retry_interval` (milliseconds) let clients of the older protocol resume a stream.
    """
    if event_store is None:
        server.middleware.append(_end_when_left)
    return server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        transport_security=security,
        max_request_body_size=max_body,
        session_idle_timeout=SESSION_IDLE_SECONDS,
        max_sessions=MOST_SESSIONS,
        event_store=event_store,
        retry_interval=retry_interval,
    )


async def _end_when_left(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Cancels a tool whose client closed the connection: nobody can fetch the result any more.

    The SDK does so for the newer protocol only; in the older one the client might come back to a stored stream.
    """
    request = cast("Request[Any] | None", ctx.request)
    if ctx.method != "tools/call" or ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS or request is None:
        return await call_next(ctx)
    with anyio.CancelScope() as scope:
        async with background(partial(_cancel_when_left, request, scope)):
            return await call_next(ctx)
    raise MCPError(REQUEST_TIMEOUT, "The client left.")


async def _cancel_when_left(request: "Request[Any]", scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def allowed_names(hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> TransportSecuritySettings:
    """Loopback under any port, and what is configured; a host without a port is allowed under any.

    A web page can make a browser send requests here, even under a name that it points at this machine; both show in
    these headers.
    """
    hosts = [*LOOPBACK, *hosts]
    ports = [f"{host}:*" for host in hosts if ":" not in host.rpartition("]")[2]]
    return TransportSecuritySettings(
        allowed_hosts=[*hosts, *ports],
        allowed_origins=[*(f"http://{name}:*" for name in LOOPBACK), *origins],
    )


def max_body_bytes(limits: ServerSettings) -> int:
    """Of one request: a prompt of which each character is escaped, and an image of the largest size in base64."""
    return ENVELOPE_BYTES + 2 * limits.max_prompt_bytes + limits.max_image_bytes * 4 // 3
