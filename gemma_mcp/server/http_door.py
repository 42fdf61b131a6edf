"""The door of the HTTP server: a name and an origin that are allowed, and a token, which says who asks."""

import hmac
import logging
from collections.abc import Mapping, Sequence

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Door", "for_pages"]

METHODS = ("GET", "POST", "DELETE")

HEADERS = (
    "authorization",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
)


REASONS = {
    421: "This server does not answer to that name. The setting http.allowed_hosts adds names.",
    403: "Web pages of that origin may not ask here. The setting http.allowed_origins adds origins.",
}


class Door:
    """Hands each request to the application of the client whose token it bears, and refuses all others on every path.

    Each client has an application of its own, and with it sessions, tasks and files that no other client can name.
    """

    def __init__(self, apps: Mapping[str, ASGIApp], security: TransportSecuritySettings) -> None:
        """`apps`: by token."""
        self._apps = {token.encode(): app for token, app in apps.items()}
        self._names = TransportSecurityMiddleware(security)
        # Anybody who can connect could fill the log with names that are refused.
        logging.getLogger("mcp.server.transport_security").setLevel(logging.ERROR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Answers 421 to a Host, 403 to an Origin and 401 to a token that is not known."""
        request = Request(scope)
        app = await self._refusal(request) or self._app(request.headers.get("authorization", "")) or _unauthorized()
        await app(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        refused = await self._names.validate_request(request)
        return refused and PlainTextResponse(REASONS[refused.status_code], refused.status_code)

    def _app(self, authorization: str) -> ASGIApp | None:
        scheme, _, given = authorization.partition(" ")
        token = given.strip().encode() if scheme.lower() == "bearer" else b""
        found = None
        for known, app in self._apps.items():  # all of them: the time taken must not tell which came close
            if hmac.compare_digest(token, known):
                found = app
        return found


def for_pages(door: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The door as browsers want it: a page of these origins may ask, without a token, whether it may send one."""
    if not origins:
        return door
    return CORSMiddleware(
        door, allow_origins=origins, allow_methods=METHODS, allow_headers=HEADERS, expose_headers=["mcp-session-id"]
    )


def _unauthorized() -> JSONResponse:
    """No word of OAuth: a client would start to register itself."""
    told = "The token is missing or wrong. `gemma-mcp http-token NAME` prints it; send `Authorization: Bearer TOKEN`."
    return JSONResponse({"error": "unauthorized", "error_description": told}, 401, {"www-authenticate": "Bearer"})
