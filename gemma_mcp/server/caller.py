"""Asks a model: makes the wire's request, watches the clock, reports progress, checks what goes in."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mcp.server.mcpserver import Context

from gemma_mcp.errors import RequestError
from gemma_mcp.server.progress import Progress, Speaker, reporting
from gemma_mcp.server.replies import ChunkStream, Reply, Request, TimeBox, collect, with_room
from gemma_mcp.server.tasks import current_task
from gemma_mcp.server.turn_messages import refuse_size, size_of
from gemma_mcp.settings import ServerSettings
from gemma_mcp.state import EngineStatus
from gemma_mcp.types import Priority
from gemma_mcp.wire import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationOptions,
    ResponseFormat,
    StreamOptions,
    TokenCounts,
)

__all__ = ["Asker", "Caller", "Engines", "Options", "parse_schema"]

DEEPEST_SCHEMA = 64
"""Levels of a JSON schema; deeper ones serve no purpose but to exhaust a parser."""


class Engines(Protocol):
    """What a server needs of the pool of engines."""

    def chat(self, request: ChatCompletionRequest) -> ChunkStream:
        """A conversation's next turn."""
        ...

    def complete(self, request: CompletionRequest) -> ChunkStream:
        """A text's continuation, or what belongs between a prompt and its suffix."""
        ...

    async def count_tokens(self, model: str, texts: Sequence[str]) -> TokenCounts:
        """How many tokens texts have, and how many a request may use. Loads the model if need be."""
        ...

    async def running(self) -> EngineStatus | None:
        """The engine that is running, None when there is none. Never starts one."""
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
    logprobs: bool = False
    priority: Priority = "interactive"


class Asker(Protocol):
    """What works through many questions of one call: `Caller`, or who stands between it and the engines."""

    async def ask(self, progress: Speaker, messages: Sequence[ChatMessage], options: Options) -> Reply:
        """One reply. Raises GemmaError."""
        ...

    async def count_tokens(self, texts: Sequence[str], options: Options) -> TokenCounts:
        """How many tokens texts have. Raises GemmaError."""
        ...

    def max_tokens(self, options: Options) -> int:
        """The most tokens of a reply."""
        ...


class Caller:
    """Runs requests of tools on the engines."""

    def __init__(self, engines: Engines, settings: ServerSettings, default_model: str) -> None:
        self._engines = engines
        self._settings = settings
        self._default_model = default_model

    def box(self, max_seconds: float | None) -> TimeBox:
        """The time box of a call that begins now. Nobody waits at the end of a request for a task."""
        usual = self._settings.max_seconds if current_task.get() is None else self._settings.task_max_seconds
        return TimeBox(max_seconds or usual)

    def model(self, options: Options) -> str:
        """The model that a call means."""
        return options.model or self._default_model

    async def chat(self, context: Context, messages: Sequence[ChatMessage], options: Options) -> Reply:
        """The model's answer to a conversation. Raises GemmaError; when time is up the text so far is the answer."""
        async with self.reporting(context) as progress:
            return await self.ask(progress, messages, options)

    async def ask(self, progress: Speaker, messages: Sequence[ChatMessage], options: Options) -> Reply:
        """As `chat`, for one of several questions of a call, which share their progress messages."""
        refuse_size(sum(map(size_of, messages)), self._settings.max_prompt_bytes)
        asked = {"logprobs": True} if options.logprobs else {}
        request = ChatCompletionRequest(messages=tuple(messages), **asked, **self._options(options))
        return await self._run(progress, self._engines.chat, request, options)

    async def insert(self, context: Context, prefix: str, suffix: str, options: Options) -> Reply:
        """What belongs between prefix and suffix. Raises UnsupportedError for a model that was not trained for it."""
        refuse_size(size_of(prefix) + size_of(suffix), self._settings.max_prompt_bytes)
        request = CompletionRequest(prompt=prefix, suffix=suffix, **self._options(options))
        async with self.reporting(context) as progress:
            return await self._run(progress, self._engines.complete, request, options)

    async def count_tokens(self, texts: Sequence[str], options: Options) -> TokenCounts:
        """How many tokens texts have for the model of a call. Raises DeadlineError when its time is up."""
        counting = self._engines.count_tokens(self.model(options), texts)
        return await options.box.within(counting, "The tokens of the files were not counted yet")

    def max_tokens(self, options: Options) -> int:
        """The most tokens of a reply."""
        return options.max_tokens or self._settings.max_tokens

    @asynccontextmanager
    async def reporting(self, context: Context) -> AsyncGenerator[Progress]:
        """Progress messages to the client of a call for as long as it is entered."""

        async def report(seconds: float, message: str) -> None:
            if (task := current_task.get()) is not None:
                task.say(message)
            await context.report_progress(seconds, message=message)

        async with reporting(report, self._settings.progress_interval) as progress:
            yield progress

    async def _run(
        self, progress: Speaker, send: Callable[[Request], ChunkStream], request: Request, options: Options
    ) -> Reply:
        box = options.box

        async def ask(request: Request) -> Reply:
            return await collect(send(_timed(request, box)), request.model, box, progress, request.max_tokens)

        return await with_room(ask, request, chosen=options.max_tokens is not None)

    def _options(self, options: Options) -> dict[str, Any]:
        """The wire's fields, checked by its own types."""
        fields = GenerationOptions(
            model=self.model(options),
            max_tokens=self.max_tokens(options),
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
            priority=options.priority,
        )
        return {name: getattr(fields, name) for name in fields.model_fields_set}


def _timed(request: Request, box: TimeBox) -> Request:
    return request.model_copy(update={"deadline_seconds": box.remaining})


def _response_format(given: dict[str, Any] | str | None) -> ResponseFormat | None:
    if given is None:
        return None
    schema = parse_schema(given)
    return ResponseFormat.model_validate({"type": "json_schema", "json_schema": {"schema": schema}})


def parse_schema(given: dict[str, Any] | str) -> dict[str, Any]:
    """A schema that came as an object or as its text. Raises RequestError for what is none."""
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
