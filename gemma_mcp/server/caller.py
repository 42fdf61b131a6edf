"""Asks a model: makes the wire's request, watches the clock, reports progress, checks what goes in."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from mcp.server.mcpserver import Context

from gemma_mcp.errors import ContextOverflowError, InputRefusedError, RequestError
from gemma_mcp.server.progress import reporting
from gemma_mcp.server.replies import ChunkStream, Reply, TimeBox, collect
from gemma_mcp.settings import ServerSettings
from gemma_mcp.wire import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationOptions,
    ResponseFormat,
    StreamOptions,
    TextPart,
)

__all__ = ["Caller", "Engines", "Options"]

FEWEST_TOKENS = 16
"""Below this a reply that has to fit the rest of a context is not worth starting."""

DEEPEST_SCHEMA = 64
"""Levels of a JSON schema; deeper ones serve no purpose but to exhaust a parser."""

Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest)


class Engines(Protocol):
    """What a server needs of the pool of engines."""

    def chat(self, request: ChatCompletionRequest) -> ChunkStream:
        """A conversation's next turn."""
        ...

    def complete(self, request: CompletionRequest) -> ChunkStream:
        """A text's continuation, or what belongs between a prompt and its suffix."""
        ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may choose; None leaves it to the configuration or to the model."""

    box: TimeBox
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] | None = None
    json_schema: dict[str, Any] | str | None = None
    return_tokens: bool = False


class Caller:
    """Runs requests of tools on the engines."""

    def __init__(self, engines: Engines, settings: ServerSettings, default_model: str) -> None:
        self._engines = engines
        self._settings = settings
        self._default_model = default_model

    def box(self, max_seconds: float | None) -> TimeBox:
        """The time box of a call that begins now."""
        return TimeBox(max_seconds or self._settings.max_seconds)

    def model(self, options: Options) -> str:
        """The model that a call means."""
        return options.model or self._default_model

    async def chat(self, context: Context, messages: Sequence[ChatMessage], options: Options) -> Reply:
        """The model's answer to a conversation. Raises GemmaError; when time is up the text so far is the answer."""
        self._refuse_size(sum(_text_bytes(message) for message in messages))
        request = ChatCompletionRequest(messages=tuple(messages), **self._options(options))
        return await self._run(context, self._engines.chat, request, options)

    async def insert(self, context: Context, prefix: str, suffix: str, options: Options) -> Reply:
        """What belongs between prefix and suffix. Raises UnsupportedError for a model that was not trained for it."""
        self._refuse_size(_bytes(prefix) + _bytes(suffix))
        request = CompletionRequest(prompt=prefix, suffix=suffix, **self._options(options))
        return await self._run(context, self._engines.complete, request, options)

    async def _run(
        self, context: Context, send: Callable[[Request], ChunkStream], request: Request, options: Options
    ) -> Reply:
        """With a max_tokens that nobody asked for, a reply that has to be shorter is better than a refusal."""
        box = options.box

        async def report(seconds: float, message: str) -> None:
            await context.report_progress(seconds, message=message)

        async with reporting(report, self._settings.progress_interval) as progress:
            try:
                return await collect(send(_timed(request, box)), request.model, box, progress)
            except ContextOverflowError as error:
                room = error.context_length - error.prompt_tokens
                if options.max_tokens is not None or not FEWEST_TOKENS <= room < (request.max_tokens or 0):
                    raise
            shorter = request.model_copy(update={"max_tokens": room})
            reply = await collect(send(_timed(shorter, box)), request.model, box, progress)
        return replace(reply, notes=(f"the context has room for {room} tokens of reply",))

    def _options(self, options: Options) -> dict[str, Any]:
        """The wire's fields, checked by its own types."""
        fields = GenerationOptions(
            model=self.model(options),
            max_tokens=options.max_tokens or self._settings.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            seed=options.seed,
            stop=tuple(options.stop) if options.stop else None,
            response_format=_response_format(options.json_schema),
            stream=True,
            stream_options=StreamOptions(include_usage=True),
            return_progress=True,
            return_tokens=options.return_tokens,
        )
        return {name: getattr(fields, name) for name in fields.model_fields_set}

    def _refuse_size(self, size: int) -> None:
        limit = self._settings.max_prompt_bytes
        if size > limit:
            why = f"it has {size:,} bytes with everything in it, more than the {limit:,} that are allowed"
            raise InputRefusedError("prompt", why, "Send less, or raise server.max_prompt_bytes.")


def _timed(request: Request, box: TimeBox) -> Request:
    return request.model_copy(update={"deadline_seconds": box.remaining})


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _text_bytes(message: ChatMessage) -> int:
    """Images are bounded on their own."""
    if isinstance(message.content, str):
        return _bytes(message.content)
    return sum(_bytes(part.text) for part in message.content if isinstance(part, TextPart))


def _response_format(given: dict[str, Any] | str | None) -> ResponseFormat | None:
    if given is None:
        return None
    schema = _schema(given)
    return ResponseFormat.model_validate({"type": "json_schema", "json_schema": {"schema": schema}})


def _schema(given: dict[str, Any] | str) -> dict[str, Any]:
    hint = 'Send an object such as {"type": "object", "properties": …}.'
    schema: object = given
    if isinstance(given, str):
        try:
            schema = json.loads(given)
        except (ValueError, RecursionError):
            raise RequestError("`json_schema` is not valid JSON.", hint) from None
    if not isinstance(schema, dict):
        raise RequestError("`json_schema` is not a JSON object.", hint)
    if _deeper_than(cast("object", schema), DEEPEST_SCHEMA):
        raise RequestError(f"`json_schema` is nested deeper than {DEEPEST_SCHEMA} levels.", "Flatten it.")
    return cast("dict[str, Any]", schema)


def _deeper_than(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []
