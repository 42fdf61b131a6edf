"""The pool: a server's way to the engine. Starts one when there is none, retries where that is safe."""

import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from types import TracebackType
from typing import Any

import anyio
import httpx2
import msgspec
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from gemma_mcp.client.connect import Connector
from gemma_mcp.client.stream import BrokenStreamError, chunks, raise_for_error
from gemma_mcp.errors import RemoteError, RequestError
from gemma_mcp.places import Places
from gemma_mcp.settings import Settings
from gemma_mcp.state import EngineState, EngineStatus
from gemma_mcp.wire import (
    ChatCompletion,
    ChatCompletionRequest,
    CompletionRequest,
    ModelCard,
    StreamOptions,
    TokenCountRequest,
    TokenCounts,
)

__all__ = ["EnginePool"]

ATTEMPTS = 2
"""An engine that ends before a reply's first token is started again once; more would hide what kills it."""

CONNECT_SECONDS = 5.0


class EnginePool:
    """Streams requests to the user's engine. An asynchronous context manager; leaving it does not end the engine.

    Every request first proves the listener (see Connector). Errors are those of `gemma_mcp.errors`, raised while
    entering or iterating; leaving a stream's block ends its request in the engine.
    """

    def __init__(self, settings: Settings, places: Places, environ: Mapping[str, str] = os.environ) -> None:
        self._http = httpx2.AsyncClient(
            trust_env=False,  # a proxy has no business between two processes of one machine
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # plain HTTP on loopback: loading certificates costs 90 ms
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=20.0),
        )
        self._connector = Connector(settings, places, environ, self._http)

    async def __aenter__(self) -> "EnginePool":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def chat(self, request: ChatCompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]:
        """The chunks of a chat reply, with places in the queue, progress and usage."""
        return self._stream("/v1/chat/completions", request)

    def complete(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatCompletion]]:
        """The chunks of a plain completion."""
        return self._stream("/v1/completions", request)

    async def models(self) -> list[ModelCard]:
        """The models that can be asked for. Starts an engine if need be."""
        reply = await self._get(await self._connector.connect(), "/v1/models")
        return [ModelCard.model_validate(entry["gemma"]) for entry in reply["data"]]

    async def count_tokens(self, model: str, texts: Sequence[str]) -> TokenCounts:
        """How many tokens each of the texts has for the model, which is loaded if need be."""
        body = TokenCountRequest(model=model, texts=tuple(texts)).model_dump_json().encode()
        state = await self._connector.connect()
        response = await self._ask("POST", state, "/v1/tokens/count", {}, body)
        return TokenCounts.model_validate_json(response.content)

    async def running(self) -> EngineStatus | None:
        """The engine that is running; None when there is none. Never starts one.

        Raises RemoteError when there is one that does not answer.
        """
        state = await self._connector.find()
        if state is None:
            await self._connector.refuse_silent()
            return None
        status = msgspec.convert(await self._get(state, "/status"), EngineStatus)
        same = self._connector.same_settings(status.fingerprint)
        return msgspec.structs.replace(status, same_settings=same)

    async def stop(self, *, drain: bool = False) -> bool:
        """End the engine and its process; with `drain` return when it takes no more requests. False when there is none.

        One that does not answer is killed, if the process that the state file names is an engine. Raises RemoteError
        when it cannot be ended.
        """
        state = await self._connector.find()
        if state is None:
            return await self._connector.kill_silent()
        query = {"drain": "1"} if drain else {}
        with anyio.move_on_after(CONNECT_SECONDS):  # one that hangs just now is killed in the end
            await self._ask("POST", state, "/shutdown", query)
        await (self._connector.gone(state) if drain else self._connector.ended(state))
        return True

    async def _get(self, state: EngineState, path: str) -> Any:
        return msgspec.json.decode((await self._ask("GET", state, path, {})).content)

    async def _ask(
        self, method: str, state: EngineState, path: str, query: dict[str, str], body: bytes | None = None
    ) -> httpx2.Response:
        try:
            response = await self._http.request(
                method, state.url + path, params=query, headers=_headers(state), content=body
            )
        except httpx2.TransportError as error:
            raise _gone() from error
        await raise_for_error(response)
        return response

    @asynccontextmanager
    async def _stream(
        self, path: str, request: ChatCompletionRequest | CompletionRequest
    ) -> AsyncGenerator[AsyncIterator[ChatCompletion]]:
        async with aclosing(self._retrying(path, _body(request))) as stream:
            yield stream

    async def _retrying(self, path: str, body: bytes) -> AsyncGenerator[ChatCompletion]:
        """Again from the start if the engine ended before there was any text: then nobody has seen anything of it."""
        for attempt in range(1, ATTEMPTS + 1):
            begun = False
            try:
                async with aclosing(self._once(path, body)) as stream:
                    async for chunk in stream:
                        begun = begun or _has_text(chunk)
                        yield chunk
                    return
            except (httpx2.TransportError, BrokenStreamError) as error:
                if begun or attempt == ATTEMPTS:
                    raise (error if isinstance(error, BrokenStreamError) else _gone()) from error

    async def _once(self, path: str, body: bytes) -> AsyncGenerator[ChatCompletion]:
        state = await self._connector.connect()
        headers = {**_headers(state), "content-type": "application/json"}
        async with (
            self._http.stream("POST", state.url + path, content=body, headers=headers) as response,
            aclosing(chunks(response)) as stream,
        ):
            async for chunk in stream:
                yield chunk


def _headers(state: EngineState) -> dict[str, str]:
    return {"authorization": f"Bearer {state.token}"}


def _body(request: ChatCompletionRequest | CompletionRequest) -> bytes:
    """Always a stream with everything in it. Raises RequestError for text that is no Unicode (lone surrogates)."""
    full = request.model_copy(
        update={"stream": True, "return_progress": True, "stream_options": StreamOptions(include_usage=True)}
    )
    try:
        return full.model_dump_json(by_alias=True).encode()
    except (PydanticSerializationError, UnicodeEncodeError, ValidationError) as error:
        raise RequestError("The request holds text that is not valid Unicode.", "Remove lone surrogates.") from error


def _has_text(chunk: ChatCompletion) -> bool:
    choice = next(iter(chunk.choices), None)
    if choice is None:
        return False
    return bool(choice.text or (choice.delta and choice.delta.content) or choice.finish_reason)


def _gone() -> RemoteError:
    return RemoteError("The engine ended before it answered.", "Try again; `gemma-mcp engine logs` may say why.")
