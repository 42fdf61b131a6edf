"""From a request's body to what the scheduler takes, with one clear sentence for whatever is wrong with it."""

import base64
import binascii
import difflib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gemma_mcp.chat.messages import Message, Part
from gemma_mcp.errors import InputRefusedError, RequestError, as_clause
from gemma_mcp.schemas import ReplyValidator, check_schema
from gemma_mcp.types import Grammar, Media, ModelInfo, Sampling, Text, Tokens
from gemma_mcp.wire import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationOptions,
    ImagePart,
    ResponseFormat,
    WireModel,
)

__all__ = [
    "Wanted",
    "choices_of",
    "logprobs_of",
    "messages_of",
    "parse",
    "refuse_long",
    "sampling_of",
    "stops_of",
    "wanted_of",
]

R = TypeVar("R", bound=WireModel)

MAX_STOPS = 64
"""Stop strings of one request; each is looked for after every token."""

DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)

RENAMED = {"dry_penalty_last_n": "dry_last_n", "dry_sequence_breakers": "dry_breakers"}
"""Wire names of sampling parameters that differ from ours."""


def parse(kind: type[R], body: bytes) -> R:
    """The request in `body`. Raises RequestError."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error, kind) from None


def refuse_long(request: WireModel, most: int) -> None:
    """Raise InputRefusedError for texts of more than `most` bytes: taking them apart would take minutes."""
    texts: list[str] = []
    if isinstance(request, CompletionRequest):
        texts = [request.prompt, request.suffix or ""]
    elif isinstance(request, ChatCompletionRequest):
        texts = [text for message in request.messages for text in _texts(message)]
    size = sum(len(text.encode()) for text in texts)
    if size > most:
        why = f"it has {size:,} bytes with everything in it, more than the {most:,} that are allowed"
        raise InputRefusedError("prompt", why, "Send less, or raise server.max_prompt_bytes.")


def _texts(message: ChatMessage) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if not isinstance(part, ImagePart)]


def _explained(error: ValidationError, kind: type[WireModel]) -> RequestError:
    """One of its complaints: a misspelt name rather than the field that is missing for it, and the deepest rather than
    those about the branches of a union that were not meant.
    """
    complaints = error.errors(include_url=False, include_input=False)
    details = max(complaints, key=lambda one: (len(one["loc"]), one["type"] == "extra_forbidden"))
    place = _place(details)
    if details["type"] == "json_invalid":
        return RequestError(f"The body is not valid JSON: {_reason(details)}.", "Send a JSON object in UTF-8.")
    if details["type"] == "extra_forbidden":
        return RequestError(f"There is no field `{place}`.", _suggestion(str(details["loc"][-1]), kind, place))
    if details["type"] == "missing":
        return RequestError(f"The field `{place}` is missing.", "Add it.")
    where = f"`{place}`" if place else "The body"
    return RequestError(f"{where} is not valid: {_reason(details)}.", "Correct it and send the request again.")


def _place(details: ErrorDetails) -> str:
    """The field as it is written in JavaScript, without the names that pydantic gives to branches of unions."""
    parts = [part for part in details["loc"] if isinstance(part, int) or _is_field(part)]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _is_field(part: str) -> bool:
    return part.isidentifier() and part not in ("str", "bool", "dict")


def _reason(details: ErrorDetails) -> str:
    return as_clause(details["msg"].removeprefix("Invalid JSON: "))


def _suggestion(name: str, kind: type[WireModel], place: str) -> str:
    schema: dict[str, Any] = kind.model_json_schema(by_alias=True)
    known: list[str] = list(schema["properties"])
    if place != name:
        known = [key for part in schema["$defs"].values() for key in part.get("properties", {})]
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean `{close[0]}`?" if close else "Leave it out: this engine does not know it."


def sampling_of(options: GenerationOptions, model: Sampling, info: ModelInfo) -> Sampling:
    """What the request says, over what the model's makers recommend. Raises RequestError for a bad `logit_bias`."""
    given = {
        RENAMED.get(name, name): value
        for name in GenerationOptions.model_fields
        if RENAMED.get(name, name) in Sampling.__struct_fields__
        and name != "logit_bias"
        and (value := getattr(options, name)) is not None
    }
    bias = _logit_bias(options.logit_bias, info.vocab_size)
    return msgspec.structs.replace(model, **given, **({"logit_bias": bias} if bias else {}))


def _logit_bias(bias: dict[str, float] | None, vocab_size: int) -> tuple[tuple[int, float], ...]:
    for token in bias or {}:
        short = len(token) <= len(str(vocab_size))  # Python makes no number of thousands of digits
        if not (short and token.isascii() and token.isdigit() and int(token) < vocab_size):
            raise RequestError(
                f"`logit_bias` names {token[:20]!r}, which is no token of this model.",
                f"Use token ids from 0 to {vocab_size - 1}.",
            )
    return tuple((int(token), value) for token, value in (bias or {}).items())


def stops_of(options: GenerationOptions) -> tuple[str, ...]:
    """The stop strings. Raises RequestError for empty ones and for too many."""
    given = options.stop or ()
    stops = (given,) if isinstance(given, str) else given
    if "" in stops:
        raise RequestError("`stop` holds an empty string.", "Leave it out.")
    if len(stops) > MAX_STOPS:
        raise RequestError(f"`stop` holds {len(stops)} strings.", f"Give at most {MAX_STOPS}.")
    return stops


def choices_of(request: ChatCompletionRequest | CompletionRequest) -> int:
    """How many replies are wanted. Raises RequestError for what is told of one reply only."""
    count = request.n or 1
    if count > 1 and request.return_tokens:
        raise RequestError("`return_tokens` tells the tokens of one reply.", "Leave `n` out, or `return_tokens`.")
    return count


def logprobs_of(request: ChatCompletionRequest | CompletionRequest) -> int | None:
    """How many alternatives to report for each token; None for no log-probabilities."""
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs`.", "Set `logprobs` to true.")
    return (request.top_logprobs or 0) if request.logprobs else None


class Wanted(msgspec.Struct, frozen=True):
    """What the reply must look like: what guides sampling, and what the finished text is checked with."""

    grammar: Grammar | None = None
    validate: Callable[[str], None] | None = None


def wanted_of(options: GenerationOptions) -> Wanted:
    """Raises RequestError for a schema that is refused, and when a grammar and a schema are both given."""
    schema = _schema(options.response_format)
    if options.grammar is None and schema is None:
        return Wanted()
    if options.grammar is not None:
        if schema is not None:
            raise RequestError("`grammar` and `response_format` are both given.", "Give one of them.")
        return Wanted(Grammar("gbnf", options.grammar))
    check_schema(schema)
    text = msgspec.json.encode(schema).decode()
    return Wanted(Grammar("json_schema", text), ReplyValidator(schema).validate)


def _schema(wanted: ResponseFormat | None) -> dict[str, Any] | bool | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        raise RequestError("The field `response_format.json_schema` is missing.", "Add it, with a `schema` in it.")
    return wanted.json_schema.schema_


def messages_of(request: ChatCompletionRequest, max_images: int, max_image_bytes: int) -> tuple[Message, ...]:
    """The conversation. Raises InputRefusedError for images that are not `data:` URIs, too large or too many."""
    images = _Images(max_images, max_image_bytes)
    messages = tuple(_message(message, images) for message in request.messages)
    last = messages[-1]
    if not any(isinstance(part, Media) or part.text.strip() for part in last.parts):
        raise RequestError("The last message is empty.", "Say what is wanted in it.")
    return messages


def _message(message: ChatMessage, images: "_Images") -> Message:
    """Token ids are taken with an assistant's plain text only: nobody else's words were generated."""
    tokens = message.tokens
    if tokens is None or not tokens.ids or message.role != "assistant" or not isinstance(message.content, str):
        return Message(_role(message), _parts(message, images))
    return Message("assistant", (Tokens(tokens.ids, message.content),), tokens.vocabulary)


def _role(message: ChatMessage) -> Any:
    return "system" if message.role == "developer" else message.role


def _parts(message: ChatMessage, images: "_Images") -> tuple[Part, ...]:
    if isinstance(message.content, str):
        return (Text(message.content),)
    return tuple(images.take(part) if isinstance(part, ImagePart) else Text(part.text) for part in message.content)


class _Images:
    """Numbers a request's images, for errors, and bounds them."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._count = 0

    def take(self, part: ImagePart) -> Media:
        """The bytes of an image's file."""
        self._count += 1
        name = f"image {self._count}"
        if self._count > self._most:
            raise InputRefusedError(name, f"a request may hold {self._most}", "Send fewer images.")
        start = DATA_URI.match(part.image_url.url[:256])
        if start is None:
            raise InputRefusedError(name, "this is not a data: URI", "Send the image itself: data:image/png;base64,...")
        encoded = part.image_url.url[start.end() :]
        if len(encoded) * 3 // 4 > self._most_bytes + 2:
            raise InputRefusedError(name, f"it has more than {self._most_bytes} bytes", "Send a smaller image.")
        try:
            return Media(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            raise InputRefusedError(name, "its base64 is damaged", "Encode the file's bytes once more.") from None
