"""From the scheduler's events to the wire: chunks of a stream, whole replies, OpenAI's shapes of log-probabilities."""

import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gemma_mcp.engine.choices import total_of
from gemma_mcp.errors import GemmaError, RequestError, describe
from gemma_mcp.types import Delta, Event, Finished, Prefill, Queued, Timings, TokenLogprob, Usage
from gemma_mcp.wire import (
    ChatCompletion,
    Choice,
    ErrorBody,
    ModelCard,
    PromptProgress,
    PromptTokensDetails,
    ReplyMessage,
    WireTimings,
    WireUsage,
)

__all__ = ["Kind", "Reply", "Shape", "Told", "dump", "error_body"]

Kind = Literal["chat", "text"]

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""OpenAI's names for errors by status; the rest of 4xx is an invalid request."""


def dump(reply: ChatCompletion) -> bytes:
    """The reply as JSON, with the fields that were set, null or not."""
    return reply.model_dump_json(exclude_unset=True).encode()


def error_body(error: GemmaError, status: int | None = None) -> ErrorBody:
    """The error in OpenAI's shape, with all that `gemma_mcp.errors.restore` needs."""
    status = status or error.status
    fallback = "invalid_request_error" if isinstance(error, RequestError) or status < 500 else "server_error"
    return ErrorBody(
        message=str(error), type=TYPES.get(status, fallback), code=status, param=None, gemma=describe(error)
    )


@dataclass(frozen=True)
class Told:
    """What one choice came to."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    ended: Finished


class Shape:
    """One reply's identity on the wire, and how its parts look there. `tokens`: whether its token ids are told;
    `choices`: how many replies to the prompt are parts of it.
    """

    def __init__(self, kind: Kind, model: str, *, stream: bool, tokens: bool = False, choices: int = 1) -> None:
        self.choices = choices
        self._kind = kind
        self._tokens = tokens
        self._common: dict[str, Any] = {
            "id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}",
            "object": _object(kind, stream=stream),
            "created": int(time.time()),
            "model": model,
        }
        self._started = time.monotonic()
        self._offsets: defaultdict[int, int] = defaultdict(int)

    def loading(self, fraction: float) -> ChatCompletion:
        """The model is being loaded."""
        return self._chunk(loading=round(fraction, 4))

    def opening(self, card: ModelCard, index: int) -> ChatCompletion:
        """The first chunk of a choice: who answers."""
        role = {"role": "assistant", "content": ""} if self._kind == "chat" else {}
        return self._chunk(gemma=card, choices=(self._part(role, "", index),))

    def progress(self, event: Queued | Prefill) -> ChatCompletion:
        """A place in the queue, or a part of the prompt."""
        if isinstance(event, Queued):
            return self._chunk(queue_place=event.place)
        spent = (time.monotonic() - self._started) * 1000
        done = PromptProgress(
            total=event.total_tokens, cache=event.cached_tokens, processed=event.done_tokens, time_ms=round(spent, 1)
        )
        return self._chunk(prompt_progress=done)

    def delta(self, event: Delta, index: int, generated: int | None) -> ChatCompletion:
        """New text; `generated`: tokens so far, for those who want to know."""
        told = {} if generated is None else {"generated": generated}
        extra = {"logprobs": self.logprobs(event.logprobs, index)} if event.logprobs else {}
        return self._chunk(choices=(self._part({"content": event.text}, event.text, index, **extra),), **told)

    def ending(self, event: Finished, index: int, card: ModelCard) -> ChatCompletion:
        """The last chunk of a choice."""
        part = self._part({}, "", index, finish_reason=event.reason)
        told = timings(event.usage, event.timings)
        return self._chunk(choices=(part,), timings=told, gemma=card, **self._ids(event))

    def usage(self, ended: Sequence[Finished]) -> ChatCompletion:
        """The chunk that `include_usage` asks for."""
        return self._chunk(usage=usage(total_of(ended).usage), choices=())

    def whole(self, told: Sequence[Told], card: ModelCard) -> ChatCompletion:
        """A reply in one piece."""
        total = total_of([one.ended for one in told])
        return ChatCompletion(
            **self._common,
            choices=tuple(self._choice(one, index) for index, one in enumerate(told)),
            usage=usage(total.usage),
            timings=timings(total.usage, total.timings),
            gemma=card,
            **self._ids(total),
        )

    def _choice(self, told: Told, index: int) -> Choice:
        body: dict[str, Any] = {"text": told.text}
        if self._kind == "chat":
            body = {"message": ReplyMessage(role="assistant", content=told.text)}
        found = self.logprobs(told.logprobs, index) if told.logprobs else None
        return Choice(index=index, finish_reason=told.ended.reason, logprobs=found, **body)

    def logprobs(self, tokens: tuple[TokenLogprob, ...], index: int) -> dict[str, Any]:
        """In the shape of chat or of plain completions."""
        return chat_logprobs(tokens) if self._kind == "chat" else self._text_logprobs(tokens, index)

    def _text_logprobs(self, tokens: tuple[TokenLogprob, ...], index: int) -> dict[str, Any]:
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(_text(token.piece))
        return {
            "tokens": [_text(token.piece) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{_text(piece): value for _, piece, value in token.top} for token in tokens],
            "text_offset": offsets,
        }

    def _ids(self, event: Finished) -> dict[str, Any]:
        return {"tokens": event.tokens} if self._tokens else {}

    def _part(self, message: dict[str, str], text: str, index: int = 0, **extra: Any) -> Choice:
        body: dict[str, Any] = {"delta": ReplyMessage(**message)} if self._kind == "chat" else {"text": text}
        return Choice(index=index, **{"finish_reason": None, "logprobs": None, **body, **extra})

    def _chunk(self, **fields: Any) -> ChatCompletion:
        """Without a choice of its own it gets an empty one, since simple clients look at the first without asking."""
        given: dict[str, Any] = {**self._common, "choices": (self._part({}, ""),), **fields}
        return ChatCompletion(**given)


def _object(kind: Kind, *, stream: bool) -> str:
    if kind == "text":
        return "text_completion"
    return "chat.completion.chunk" if stream else "chat.completion"


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def _one(piece: bytes, value: float) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": value, "bytes": list(piece)}


def chat_logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """OpenAI's `choices[].logprobs` of chat completions."""
    content = [
        {**_one(token.piece, token.logprob), "top_logprobs": [_one(piece, value) for _, piece, value in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def usage(counts: Usage) -> WireUsage:
    """OpenAI's `usage`."""
    return WireUsage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.prompt_tokens + counts.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counts.cached_tokens),
    )


def timings(counts: Usage, spent: Timings) -> WireTimings:
    """llama.cpp's `timings`."""
    decode = spent.decode_seconds
    return WireTimings(
        cache_n=counts.cached_tokens,
        prompt_n=counts.prompt_tokens - counts.cached_tokens,
        prompt_ms=spent.prefill_seconds * 1000,
        predicted_n=counts.completion_tokens,
        predicted_ms=decode * 1000,
        predicted_per_second=counts.completion_tokens / decode if decode > 0 else 0.0,
        queue_ms=spent.queue_seconds * 1000,
        ttft_ms=spent.ttft_seconds * 1000,
    )


class Reply(Protocol):
    """Where the course of a request is told."""

    async def loading(self, fraction: float) -> None:
        """The model is not in memory yet."""
        ...

    async def started(self, card: ModelCard) -> None:
        """The request was admitted to this model's queue."""
        ...

    async def event(self, event: Event, index: int) -> None:
        """What came of a choice; each ends with Finished."""
        ...
