"""The engine's door: who may come in, through which name, and what is counted."""

import hmac
from collections.abc import Mapping

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gemma_mcp.engine.metrics import Metrics
from gemma_mcp.engine.replies import error_body
from gemma_mcp.errors import GemmaError, RequestError

__all__ = ["Counted", "Guarded", "error_response", "json_response"]

OPEN_PATHS = ("/health",)
"""Need no token: a server asks there whether the listener is its engine, before it shows the token to anybody."""

NAMES = ("127.0.0.1", "localhost")


def json_response(body: object, status: int = 200) -> Response:
    """Any value that msgspec encodes."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def error_response(error: GemmaError, status: int | None = None) -> Response:
    """OpenAI's shape of an error."""
    body = error_body(error, status)
    headers = {"retry-after": "1"} if body.code == 429 else None
    content = msgspec.json.encode({"error": body.model_dump()})
    return Response(content, int(body.code or 500), headers, "application/json")


class Guarded:
    """Refuses requests without the token, and under another host's name: a web page may rebind DNS to this machine."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app = app
        self._token = token
        self._hosts = {f"{name}:{port}" for name in NAMES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            error = RequestError("This engine answers to 127.0.0.1 and localhost only.", "Use its address as it is.")
            return error_response(error, 421)
        if scope["path"] in OPEN_PATHS or self._knows_token(headers):
            return None
        error = RequestError(
            "The token is missing or wrong.", "Send the one of the engine's state file: `Authorization: Bearer ...`."
        )
        return error_response(error, 401)

    def _knows_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token.encode())


class Counted:
    """Counts requests by route and status."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # as nginx calls a client that left before there was an answer

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.request(route, status)
