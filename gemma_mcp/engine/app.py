"""The engine's HTTP application: OpenAI's routes, health, status, metrics, shutdown."""

import time
from functools import partial
from typing import TypeVar

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

import gemma_mcp
from gemma_mcp.engine.answers import GenerationResponse
from gemma_mcp.engine.generation import Call, Render, chat_prompt, completion_prompt, generate
from gemma_mcp.engine.guard import Counted, Guarded, error_response, json_response
from gemma_mcp.engine.intake import choices_of, logprobs_of, messages_of, parse, refuse_long, wanted_of
from gemma_mcp.engine.metrics import CONTENT_TYPE
from gemma_mcp.engine.replies import Kind, Shape
from gemma_mcp.engine.service import Service
from gemma_mcp.errors import GemmaError, RequestError
from gemma_mcp.state import NONCE_CHARACTERS, Health, proof
from gemma_mcp.wire import (
    WIRE_VERSION,
    ChatCompletionRequest,
    CompletionRequest,
    TokenCountRequest,
    TokenCounts,
    WireModel,
)

__all__ = ["build_app"]

R = TypeVar("R", ChatCompletionRequest, CompletionRequest, TokenCountRequest)

INLINE_BYTES = 100_000
"""Longer bodies are parsed in a thread, so that they hold up nobody's tokens."""

ENVELOPE_BYTES = 16_384
"""Room for what stands around the texts and images of a request."""


def build_app(service: Service) -> ASGIApp:
    """The application, guarded and counted."""
    routes = _Routes(service)
    table = [
        Route("/health", routes.health, methods=["GET"]),
        Route("/status", routes.status, methods=["GET"]),
        Route("/metrics", routes.metrics, methods=["GET"]),
        Route("/shutdown", routes.shutdown, methods=["POST"]),
        Route("/v1/models", routes.models, methods=["GET"]),
        Route("/v1/models/{name:path}", routes.model, methods=["GET"]),
        Route("/v1/tokens/count", routes.count, methods=["POST"]),
        Route("/v1/chat/completions", routes.chat, methods=["POST"]),
        Route("/v1/completions", routes.complete, methods=["POST"]),
    ]
    app = Starlette(routes=table, exception_handlers=_HANDLERS)
    guarded = Guarded(app, token=service.state.token, port=service.state.port)
    return Counted(guarded, metrics=service.metrics, routes=frozenset(route.path for route in table))


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, GemmaError)
    return error_response(error)


async def _refused(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, no such method."""
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path[:200]}: {error.detail.lower()}."
    return error_response(RequestError(text, "See OpenAI's API reference."), error.status_code)


async def _left(request: Request, error: Exception) -> Response:
    """The client went away before its request was read; nobody sees this."""
    return Response(status_code=400)


async def _crashed(request: Request, error: Exception) -> Response:
    """Starlette raises the error again, so that the log gets it."""
    return error_response(GemmaError("The engine failed at this request.", "`gemma-mcp engine logs` says more."))


_HANDLERS = {GemmaError: _failed, HTTPException: _refused, ClientDisconnect: _left, Exception: _crashed}


class _Routes:
    """One method per route."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.settings.server
        self._id_bytes = 8 * service.settings.llamacpp.wanted_context

    async def health(self, request: Request) -> Response:
        """Whether it is there; with a nonce, the proof that it is the engine of the state file."""
        nonce = request.query_params.get("nonce")
        if nonce is not None and len(nonce) not in NONCE_CHARACTERS:
            raise RequestError("The nonce is too short or too long.", "Send 64 hexadecimal digits.")
        answer = proof(self._service.state.token, nonce) if nonce is not None else None
        return json_response(
            Health(status="ok", version=gemma_mcp.__version__, wire_version=WIRE_VERSION, proof=answer)
        )

    async def status(self, request: Request) -> Response:
        """This process and its models."""
        return json_response(self._service.status())

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def shutdown(self, request: Request) -> Response:
        """End the engine; with `drain=1` after the requests that are under way."""
        self._service.activity.end(drain=request.query_params.get("drain") == "1")
        return json_response({"status": "stopping"}, 202)

    async def models(self, request: Request) -> Response:
        """OpenAI's list; what we know beyond that stands under `gemma`."""
        loaded = {resident.spec.name: resident.card for resident in self._service.residency.residents()}
        async with self._service.activity.request():
            cards = [loaded.get(card.model, card) for card in await self._service.specs.cards()]
        data = [{**_openai_model(card.model), "gemma": card.model_dump()} for card in cards]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One of them."""
        async with self._service.activity.request():
            spec = await self._service.specs.find(request.path_params["name"])
        return json_response(_openai_model(spec.name))

    async def count(self, request: Request) -> Response:
        """How many tokens texts have."""
        asked = await self._parsed(TokenCountRequest, request)
        service = self._service
        async with service.activity.request():
            spec = await service.specs.find(asked.model)
            async with service.residency.lease(spec, _ignore) as resident:
                counts = await resident.model.count(asked.texts)
                length = resident.model.info.context_length
        return json_response(TokenCounts(model=spec.name, context_length=length, counts=tuple(counts)).model_dump())

    async def chat(self, request: Request) -> GenerationResponse:
        """Chat completions."""
        received = time.monotonic()
        options = await self._parsed(ChatCompletionRequest, request)
        limits = self._service.settings.server
        read = partial(messages_of, options, limits.max_images, limits.max_image_bytes)
        messages = await anyio.to_thread.run_sync(read)
        most = options.max_completion_tokens or options.max_tokens
        return await self._generation("chat", options, chat_prompt(messages), most, received)

    async def complete(self, request: Request) -> GenerationResponse:
        """Plain completions, and with a suffix what stands between."""
        received = time.monotonic()
        options = await self._parsed(CompletionRequest, request)
        return await self._generation("text", options, completion_prompt(options), options.max_tokens, received)

    async def _generation(
        self,
        kind: Kind,
        options: ChatCompletionRequest | CompletionRequest,
        render: Render,
        max_tokens: int | None,
        received: float,
    ) -> GenerationResponse:
        """All that can be refused without the model is refused here, at the door."""
        service = self._service
        async with service.activity.request():
            spec = await service.specs.find(options.model)
            wanted = await anyio.to_thread.run_sync(wanted_of, options)
        call = Call(options, render, wanted, max_tokens, logprobs_of(options), received)
        work = partial(generate, call, spec, service.residency, service.metrics)
        count = choices_of(options)
        shape = Shape(kind, spec.name, stream=options.stream, tokens=options.return_tokens, choices=count)
        return GenerationResponse(work, shape, options, wanted.validate, service.activity)

    async def _parsed(self, kind: type[R], request: Request) -> R:
        body = await _body(request, self._max_body_bytes(kind))
        if len(body) < INLINE_BYTES:
            return self._understood(kind, body)
        return await anyio.to_thread.run_sync(self._understood, kind, body)

    def _understood(self, kind: type[R], body: bytes) -> R:
        parsed = parse(kind, body)
        refuse_long(parsed, self._limits.max_prompt_bytes)
        return parsed

    def _max_body_bytes(self, kind: type[WireModel]) -> int:
        """What our own server may send at most: a prompt with much escaping (or one to be counted, and its reply), in
        a chat a context of token ids and images in base64.
        """
        most = ENVELOPE_BYTES + 2 * self._limits.max_prompt_bytes
        if kind is not ChatCompletionRequest:
            return most
        return most + self._id_bytes + self._limits.max_images * (self._limits.max_image_bytes * 4 // 3 + 1000)


async def _ignore(fraction: float) -> None:
    """Nobody reads how a model loads before its tokens are counted."""


def _openai_model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "gemma-mcp"}


async def _body(request: Request, most: int) -> bytes:
    """The body, as long as it is not too long; nobody has to send a too long one to the end."""
    error = HTTPException(413, f"the body has more than {most} bytes")
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > most:
        raise error
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise error
        parts.append(part)
    return b"".join(parts)
