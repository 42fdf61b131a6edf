"""Values that several layers share. All are frozen; those that cross a socket are msgspec structs."""

from collections.abc import Callable
from typing import Literal

import msgspec

__all__ = [
    "Control",
    "Delta",
    "DeviceMemory",
    "Event",
    "FimTokens",
    "FinishReason",
    "Finished",
    "GenerationRequest",
    "Grammar",
    "Media",
    "ModelInfo",
    "ModelSpec",
    "Prefill",
    "Priority",
    "Queued",
    "Sampling",
    "Segment",
    "Text",
    "Timings",
    "TokenLogprob",
    "Tokens",
    "Usage",
    "choice_seed",
]

FinishReason = Literal["stop", "length", "deadline", "cancelled", "tool_calls"]

Priority = Literal["interactive", "bulk"]
"""Whether somebody waits for a reply, or a mass of them is worked off beside what people wait for."""


class Control(msgspec.Struct, frozen=True, tag="control"):
    """Prompt text that we wrote; its special tokens are honoured."""

    text: str


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Prompt text that a user wrote; nothing in it can become a special token."""

    text: str


class Media(msgspec.Struct, frozen=True, tag="media"):
    """An image, as the bytes of a PNG or JPEG file."""

    data: bytes


class Tokens(msgspec.Struct, frozen=True, tag="generated"):
    """A reply that was generated earlier, by the ids of its tokens; `text` is what they are said to spell.

    Tokenising the text again may cut it otherwise, and then nothing from there on is found in the prefix cache.
    """

    ids: tuple[int, ...]
    text: str

    def hold(self, piece: Callable[[int], bytes]) -> bool:
        """Whether the ids may stand for the text, in a vocabulary whose tokens have these `piece`s.

        They must spell it exactly, and none may be a control token (no bytes): with one, a text could end its turn.
        """
        pieces = [piece(token) for token in self.ids]
        return all(pieces) and b"".join(pieces) == self.text.encode("utf-8", "replace")


Segment = Control | Text | Media | Tokens


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Defaults: Google's for Gemma 3 and 4; everything beyond them is off.

    `temperature` 0 means greedy. `seed` None means a random one. `logit_bias` holds (token id, bias) pairs.
    With H the entropy of the distribution after top-k, `eta_cutoff` E cuts tokens less likely than
    min(E, sqrt(E) * exp(-H)), and `edt_theta` makes the temperature `temperature * edt_base ** (edt_theta / H)`.
    """

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = -1
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    eta_cutoff: float = 0.0
    edt_theta: float = 0.0
    edt_base: float = 0.8
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


def choice_seed(seed: int, index: int) -> int:
    """The seed of one of several replies to a prompt, 32 bits: the first has the seed itself.

    The finalizer of splitmix64 keeps those of neighbouring seeds apart.
    """
    if not index:
        return seed
    mixed = (seed + index * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 31)) & 0xFFFFFFFF


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which files make up a model. `notice` is said with every result of it; `sampling` holds its own defaults."""

    name: str
    format: str
    path: str
    projector: str | None = None
    notice: str = ""
    sampling: Sampling = Sampling()


class Grammar(msgspec.Struct, frozen=True):
    """What a reply must look like: GBNF text, or a JSON schema as JSON text."""

    kind: Literal["gbnf", "json_schema"]
    text: str


class FimTokens(msgspec.Struct, frozen=True):
    """The fill-in-the-middle markers of a model that was trained for it, as control text."""

    prefix: str
    suffix: str
    middle: str
    separator: str | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself. `context_length` is per request, in tokens; `slots` is how many run at once.

    `step_tokens` bounds the tokens of one step; `window` is the sliding window in tokens, 0 without one. `vocabulary`
    differs between vocabularies in which token ids mean different texts. `forks`: whether a fork keeps anything.
    `draft_tokens`: how many guesses all rows of a step may hold together, 0 without speculation.
    """

    architecture: str
    description: str
    runtime: str
    device: str
    vocab_size: int
    vocabulary: str = ""
    context_length: int
    slots: int
    step_tokens: int
    window: int = 0
    size_bytes: int = 0
    chat_template: str | None = None
    bos: str = ""
    eos: str = ""
    fim: FimTokens | None = None
    images: bool = False
    forks: bool = False
    draft_tokens: int = 0


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's memory in bytes. `shared`: it is the machine's own."""

    name: str
    total_bytes: int
    free_bytes: int
    shared: bool = False


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and how to continue it.

    `max_tokens` is refused when the context does not hold so many; without it the reply may fill the context.
    `deadline_seconds` counts from submission, queueing included; when it passes, the text so far is given back with the
    finish reason "deadline". `logprobs`: how many alternatives to report for each token, None for no log-probabilities
    at all. `stop` strings end the reply and are not part of it.
    """

    segments: tuple[Segment, ...]
    sampling: Sampling = Sampling()
    grammar: Grammar | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    deadline_seconds: float | None = None
    logprobs: int | None = None
    reuse_prefix: bool = True
    priority: Priority = "interactive"


class Usage(msgspec.Struct, frozen=True):
    """Counts of tokens. `cached_tokens` of the prompt's were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Timings(msgspec.Struct, frozen=True):
    """Seconds. `ttft_seconds`: submission to first text, queue included; `queue_seconds`: submission to a slot."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    ttft_seconds: float
    total_seconds: float


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """A chosen token's natural-log probability before sampling truncation, and the likeliest alternatives."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


class Queued(msgspec.Struct, frozen=True, tag="queued"):
    """Waiting for a slot; `place` 1 is next."""

    place: int


class Prefill(msgspec.Struct, frozen=True, tag="prefill"):
    """How many of the prompt's tokens stand in the KV cache."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int


class Delta(msgspec.Struct, frozen=True, gc=False, tag="delta"):
    """New text; empty when only log-probabilities are new, or while a character or stop string is incomplete."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The end of a reply, always the last event. `tokens`: the ids of its completion tokens."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    tokens: tuple[int, ...] = ()


Event = Queued | Prefill | Delta | Finished
