"""The backend contract: what a runtime must offer to run here. It fits on one screen, and built-ins use it too.

A backend is declared as an entry point in the group `gemma_mcp.backends`. Its code runs in a worker process. One
thread of the worker owns the runtime and calls everything except what is marked *any thread*.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from gemma_mcp.types import Grammar, ModelInfo, ModelSpec, Sampling, Segment, TokenLogprob

__all__ = [
    "Backend",
    "Executor",
    "Fork",
    "LoadOptions",
    "MediaPiece",
    "MediaRow",
    "ModelSpec",
    "Output",
    "Piece",
    "Row",
    "Sampled",
    "Save",
    "SlotOptions",
    "Spare",
    "Step",
    "StepResult",
    "TokenPiece",
    "TokenRow",
    "Trim",
]


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to load it. `threads` 0 and `gpu_layers` -1 let the backend choose."""

    context_length: int = 8192
    slots: int = 4
    step_tokens: int = 2048
    threads: int = 0
    device: str = "auto"
    gpu_layers: int = -1
    flash_attention: bool = True
    kv_type: Literal["f16", "q8_0"] = "f16"
    swa_full: bool = False


class SlotOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a slot samples. `history`: completion tokens to replay through the sampler, after a worker was restarted."""

    sampling: Sampling
    grammar: Grammar | None = None
    logprobs: int | None = None
    history: tuple[int, ...] = ()


class TokenPiece(msgspec.Struct, frozen=True, tag="tokens"):
    """A run of the encoded prompt: token ids."""

    ids: tuple[int, ...]


class MediaPiece(msgspec.Struct, frozen=True, tag="media"):
    """An image in the prompt: a handle held until `release`, the hash of its content, its length in positions."""

    media: int
    digest: str
    positions: int


Piece = TokenPiece | MediaPiece


class Spare(msgspec.Struct, frozen=True, array_like=True):
    """A checkpoint to fall back on where a sliding window has moved on: its number, and the positions it stands for."""

    checkpoint: int
    positions: int


class Save(msgspec.Struct, frozen=True, array_like=True):
    """Keep what a slot's sliding window holds now as a checkpoint, until it is dropped."""

    slot: int
    checkpoint: int


class Trim(msgspec.Struct, frozen=True, array_like=True):
    """Shorten a slot's cache to `keep` positions, or to the spare's; 0 empties it."""

    slot: int
    keep: int
    spare: Spare | None = None


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """Let a slot's cache begin as another's does, with its first `keep` positions, or the spare's. What was in the
    target is gone. Runtimes share the memory if they can.
    """

    source: int
    target: int
    keep: int
    spare: Spare | None = None


class TokenRow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tokens"):
    """Tokens to compute at `position` and after; with `sample` one more is chosen after the last.

    The last `draft` tokens are guesses of what will be chosen; then `sample` is true. A token is chosen after the one
    before them, and after each guess that was right. The slot keeps as many positions of the guesses as were right.
    """

    slot: int
    position: int
    tokens: tuple[int, ...]
    sample: bool
    draft: int = 0


class MediaRow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="media"):
    """An image to compute at `position`."""

    slot: int
    position: int
    media: int


Row = TokenRow | MediaRow


class Step(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """Everything one turn of the scheduler's loop wants, in this order; token rows in one pass.

    `drops`: checkpoints that are not needed any more. Checkpoints that a spare names were made from caches that began
    with the same tokens and images.
    """

    drops: tuple[int, ...] = ()
    saves: tuple[Save, ...] = ()
    forks: tuple[Fork, ...] = ()
    trims: tuple[Trim, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.rows or self.trims or self.forks or self.saves or self.drops)

    @property
    def touched(self) -> frozenset[int]:
        """The slots that it changes."""
        return frozenset(
            (
                *(row.slot for row in self.rows),
                *(trim.slot for trim in self.trims),
                *(fork.target for fork in self.forks),
            )
        )


class Sampled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A chosen token: its id, its bytes (empty for control tokens), whether it ends generation."""

    token: int
    piece: bytes
    end: bool
    logprob: TokenLogprob | None = None


class Output(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a sampling row gave: one token, and one more for each guess that was right.

    `error`: why none could be chosen, as `gemma_mcp.errors.describe` writes it; that ends this row's request alone.
    """

    slot: int
    tokens: tuple[Sampled, ...]
    error: dict[str, Any] | None = None


class StepResult(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """What became of a step.

    `kept`: for each trimmed slot, and for the target of each fork, the positions that could be kept; a sliding-window
    cache may keep fewer than asked. `saved`: the bytes of each checkpoint that was made.
    `status`: "done"; "interrupted" by `interrupt`; "no_room" when the KV cache is full. After the last two no row was
    sampled, and `kept` also says for every slot with a row how many positions its cache holds now, all of them valid.
    `compute_seconds` and `sample_seconds`: time in the runtime and in the samplers.
    """

    kept: dict[int, int] = {}
    saved: dict[int, int] = {}
    outputs: tuple[Output, ...] = ()
    status: Literal["done", "interrupted", "no_room"] = "done"
    compute_seconds: float = 0.0
    sample_seconds: float = 0.0


class Executor(Protocol):
    """A loaded model, one forward pass at a time. A slot is a sequence's place in the KV cache, from 0."""

    @property
    def info(self) -> ModelInfo:
        """*Any thread.*"""
        ...

    def encode(self, segments: Sequence[Segment]) -> list[Piece]:
        """*Any thread.* The prompt as tokens and images. The beginning-of-sequence token comes first, exactly once.

        `Tokens` become their ids, as they are, when these hold here (`Tokens.hold`), else their text is encoded.
        Raises UnsupportedError for an image without a projector, InputRefusedError for an image that cannot be decoded.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> bytes:
        """*Any thread.* The text of tokens; control tokens have none."""
        ...

    def release(self, media: Sequence[int]) -> None:
        """*Any thread.* Forget images that `encode` prepared."""
        ...

    def interrupt(self) -> None:
        """*Any thread.* End the running step early if the runtime can; without a running one, the next step.

        Every step that ends clears it. A step interrupted by mistake costs time only: it is planned again.
        """
        ...

    def open(self, slot: int, options: SlotOptions) -> None:
        """Set how a slot samples from now on. Raises RequestError for options that cannot be met (a bad grammar)."""
        ...

    def step(self, step: Step) -> StepResult:
        """Trim, compute, sample. Raises StepFailedError when the runtime fails."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class Backend(Protocol):
    """A runtime family."""

    name: str
    formats: tuple[str, ...]
    """The model formats it loads: "gguf", "onnx", "openvino"."""

    def missing(self) -> str | None:
        """None when the runtime is installed, else the command that installs it. Imports nothing native."""
        ...

    def devices(self) -> tuple[str, ...]:
        """The devices it can use here, best first. Called in a child process: drivers hang."""
        ...

    def load(self, spec: ModelSpec, options: LoadOptions, progress: Callable[[float], None]) -> Executor:
        """Load a model, reporting `progress` from 0 to 1. Raises LoadFailedError with the runtime's own reason."""
        ...
