"""The HTTP wire between servers and engines: OpenAI's requests and replies, with llama.cpp's server's extra fields.

Both sides use these models, so they cannot drift apart. Requests forbid unknown fields: a misspelt one is refused, not
ignored. Field names and meanings: the OpenAI API reference (chat completions, completions), llama.cpp `tools/server`
(`return_progress`, `prompt_progress`, `return_tokens`, `timings`, sampling parameters). `deadline_seconds`,
`priority`, `queue_place`, the `tokens` of a message and three sampling parameters (`eta_cutoff`, `edt_theta`,
`edt_base`) are ours.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gemma_mcp.types import Priority

__all__ = [
    "WIRE_VERSION",
    "ChatCompletion",
    "ChatCompletionRequest",
    "ChatMessage",
    "Choice",
    "CompletionRequest",
    "ErrorBody",
    "GeneratedTokens",
    "GenerationOptions",
    "ImagePart",
    "ImageUrl",
    "ModelCard",
    "PromptProgress",
    "ResponseFormat",
    "StreamOptions",
    "TextPart",
    "TokenCountRequest",
    "TokenCounts",
    "WireModel",
    "WireTimings",
    "WireUsage",
]

WIRE_VERSION = 2
"""Raised when an engine and a server of different releases could misunderstand each other."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=0xFFFFFFFF)]


class WireModel(BaseModel):
    """Unknown fields are refused; numbers are not made from strings."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class ImageUrl(WireModel):
    """A `data:` URI; the engine opens nothing else."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(WireModel):
    """Text of a message."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(WireModel):
    """An image of a message."""

    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


class GeneratedTokens(WireModel):
    """The ids of a reply's tokens, as `return_tokens` gave them, and the `vocabulary` of the card beside them."""

    ids: tuple[Annotated[int, Field(ge=0, le=0x7FFFFFFF)], ...]
    vocabulary: str


class ChatMessage(WireModel):
    """One turn of a conversation.

    `tokens`: how an assistant's text was generated. The same model then finds the whole turn in its prefix cache.
    Where they are another model's or do not spell the text, they are passed over; the text decides.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[Annotated[TextPart | ImagePart, Field(discriminator="type")], ...]
    name: str | None = None
    tokens: GeneratedTokens | None = None


class JsonSchemaFormat(WireModel):
    """The schema that a reply must satisfy."""

    name: str = "reply"
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")]


class ResponseFormat(WireModel):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StreamOptions(WireModel):
    """`include_usage`: one more chunk with the usage at the end of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationOptions(WireModel):
    """What chat and plain completions have in common. None everywhere means the model's own default."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    stop: str | tuple[str, ...] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    repeat_penalty: Annotated[Finite, Field(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    dry_multiplier: Annotated[Finite, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[Finite, Field(ge=0, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    xtc_probability: Annotated[Finite, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[Finite, Field(ge=0, le=1)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Annotated[Finite, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[Finite, Field(ge=0, le=100)] | None = None
    dynatemp_range: Annotated[Finite, Field(ge=0, le=100)] | None = None
    dynatemp_exponent: Annotated[Finite, Field(ge=0, le=100)] | None = None
    eta_cutoff: Annotated[Finite, Field(ge=0, le=1)] | None = None
    edt_theta: Annotated[Finite, Field(ge=0, le=100)] | None = None
    edt_base: Annotated[Finite, Field(ge=0.001, le=1)] | None = None
    seed: Seed | None = None
    logit_bias: dict[str, Finite] | None = None

    grammar: str | None = None
    response_format: ResponseFormat | None = None
    cache_prompt: bool = True
    return_progress: bool = False
    return_tokens: bool = False
    deadline_seconds: Annotated[Finite, Field(gt=0)] | None = None
    priority: Priority = "interactive"


class ChatCompletionRequest(GenerationOptions):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class CompletionRequest(GenerationOptions):
    """POST /v1/completions. `suffix` asks for fill-in-the-middle, which needs a model that was trained for it."""

    prompt: str
    suffix: str | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TokenCountRequest(WireModel):
    """POST /v1/tokens/count: how many tokens plain texts have. Ours; loads the model if need be."""

    model: str
    texts: Annotated[tuple[str, ...], Field(max_length=10_000)]


class Lenient(BaseModel):
    """What the other side sends: fields that are not known here are ignored, since engines elsewhere add their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class PromptTokensDetails(Lenient):
    """How many prompt tokens came from the prefix cache."""

    cached_tokens: int = 0


class WireUsage(Lenient):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class PromptProgress(Lenient):
    """llama.cpp's `prompt_progress`: all prompt tokens, those from the cache, those computed by now, time so far."""

    total: int
    cache: int
    processed: int
    time_ms: float = 0.0


class WireTimings(Lenient):
    """llama.cpp's `timings` (milliseconds), and the two that a queue adds: `queue_ms`, `ttft_ms`."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    predicted_per_second: float = 0.0
    queue_ms: float = 0.0
    ttft_ms: float = 0.0


class ReplyMessage(Lenient):
    """A reply, or in a stream a part of one."""

    role: str | None = None
    content: str | None = None


class Choice(Lenient):
    """`message` in a whole chat reply, `delta` in a stream of one, `text` in plain completions."""

    index: int = 0
    message: ReplyMessage | None = None
    delta: ReplyMessage | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class ErrorBody(Lenient):
    """The `error` object of a failed request: OpenAI's fields, and `gemma_mcp.errors.describe`'s under `gemma`."""

    message: str
    type: str = "server_error"
    code: str | int | None = None
    param: str | None = None
    gemma: dict[str, Any] | None = None


class ModelCard(Lenient):
    """Who answered: in a reply of our own engine, under `gemma`. `notice` must be shown with the result.

    `vocabulary` names the model and its vocabulary: where it is the same, token ids mean the same.
    """

    model: str
    runtime: str = ""
    device: str = ""
    context_length: int = 0
    images: bool = False
    fim: bool = False
    vocabulary: str = ""
    notice: str = ""


class TokenCounts(Lenient):
    """One count per text, the beginning-of-sequence token left out, and the tokens that one request may use."""

    model: str
    context_length: int
    counts: tuple[int, ...]


class ChatCompletion(Lenient):
    """A whole reply, or one chunk of a stream (then `object` ends in ".chunk"); plain completions have the same shape.

    Chunks of our engine may also hold `queue_place` (1 is next), `prompt_progress`, `generated` (completion tokens so
    far, with `return_progress`), or an `error` as the last chunk.
    `tokens`: the ids of the completion tokens, when they were asked for; in a stream with the finish reason.
    """

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    choices: tuple[Choice, ...] = ()
    usage: WireUsage | None = None
    timings: WireTimings | None = None
    prompt_progress: PromptProgress | None = None
    queue_place: int | None = None
    loading: float | None = None
    generated: int | None = None
    tokens: tuple[int, ...] | None = None
    gemma: ModelCard | None = None
    error: ErrorBody | None = None
