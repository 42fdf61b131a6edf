"""A backend without a runtime: it repeats the last user turn, one byte a token, through the real contract.

It is a true autoregressive executor. What it says follows from the positions that stand in its cache and from nothing
else, so a scheduler that trims, restores or numbers them wrongly makes it talk nonsense. An image is named by its size.

A user turn that starts with `!` is an order to do what is rare: see `echo_orders`.
"""

import hashlib
import io
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image, UnidentifiedImageError

from gemma_mcp.engine.backend import (
    Executor,
    Fork,
    LoadOptions,
    MediaPiece,
    MediaRow,
    ModelSpec,
    Output,
    Piece,
    Sampled,
    SlotOptions,
    Spare,
    Step,
    StepResult,
    TokenPiece,
    TokenRow,
)
from gemma_mcp.errors import InputRefusedError, RequestError, StepFailedError, describe
from gemma_mcp.testing.echo_orders import Order
from gemma_mcp.types import Control, FimTokens, Media, ModelInfo, Segment, TokenLogprob, Tokens

__all__ = ["TEMPLATE", "EchoBackend", "EchoExecutor"]

BYTES = 16
"""Token ids below this are control tokens; a byte is its value plus this."""
BOS, EOS, START, END, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = range(1, 8)
CONTROLS = {
    "<bos>": BOS,
    "<eos>": EOS,
    "<start_of_turn>": START,
    "<end_of_turn>": END,
    "<|fim_prefix|>": FIM_PREFIX,
    "<|fim_suffix|>": FIM_SUFFIX,
    "<|fim_middle|>": FIM_MIDDLE,
}
MEDIA_POSITIONS = 4
CHECKPOINT_BYTES = 1000
DRAFT_TOKENS = 16
POLL_SECONDS = 0.01

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set role = 'system' %}"
    "{% elif m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = 'user' %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

Die = Callable[[], object]


class EchoBackend:
    """Loads the format "echo", which has no file. `spec.path` may set options: "window=64 no-fim no-images"."""

    name = "echo"
    formats = ("echo",)

    def missing(self) -> str | None:
        """It is always there."""
        return None

    def devices(self) -> tuple[str, ...]:
        """The processor that Python runs on."""
        return ("CPU",)

    def load(self, spec: ModelSpec, options: LoadOptions, progress: Callable[[float], None]) -> Executor:
        """Nothing can fail."""
        words = spec.path.split()
        window = next((int(word.removeprefix("window=")) for word in words if word.startswith("window=")), 0)
        executor = EchoExecutor(options, window=window, fim="no-fim" not in words, images="no-images" not in words)
        progress(1.0)
        return executor


@dataclass
class _Slot:
    cells: list[int] = field(default_factory=list[int])
    logprobs: int | None = None
    oldest: int = 0
    """Positions below this have left the sliding window's cache."""


class EchoExecutor:
    """See the module. `window` imitates a sliding window: a cache that was longer cannot be cut back beyond it."""

    def __init__(
        self,
        options: LoadOptions,
        *,
        window: int = 0,
        fim: bool = True,
        images: bool = True,
        die: Die = lambda: os._exit(70),
    ) -> None:
        self._info = ModelInfo(
            architecture="echo",
            description="repeats what it is told; for tests",
            runtime="none",
            device="CPU",
            vocab_size=BYTES + 256,
            vocabulary="bytes",
            context_length=options.context_length,
            slots=options.slots,
            step_tokens=options.step_tokens,
            window=window,
            chat_template=TEMPLATE,
            bos="<bos>",
            eos="<eos>",
            fim=FimTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>") if fim else None,
            images=images,
            forks=True,
            draft_tokens=DRAFT_TOKENS,
        )
        self._slots = [_Slot() for _ in range(options.slots)]
        self._die = die
        self._media: dict[int, tuple[str, int]] = {}
        self._names: dict[int, str] = {}
        self._checkpoints: dict[int, int] = {}
        """The positions that each stands for."""
        self._handles = itertools.count(1)
        self._interrupted = threading.Event()

    @property
    def info(self) -> ModelInfo:
        """What it says of itself."""
        return self._info

    def encode(self, segments: Sequence[Segment]) -> list[Piece]:
        """One token a byte; the names of control tokens are single tokens in Control segments only."""
        pieces: list[Piece] = [TokenPiece((BOS,))]
        for segment in segments:
            if isinstance(segment, Media):
                pieces.append(self._encode_media(segment))
            elif isinstance(segment, Control):
                pieces.append(TokenPiece(tuple(_control_ids(segment.text.removeprefix("<bos>")))))
            elif isinstance(segment, Tokens) and segment.hold(_piece):
                pieces.append(TokenPiece(segment.ids))
            else:
                pieces.append(TokenPiece(tuple(_text_ids(segment.text))))
        return [piece for piece in pieces if isinstance(piece, MediaPiece) or piece.ids]

    def _encode_media(self, media: Media) -> MediaPiece:
        if not self._info.images:
            raise RequestError("This model does not see images.", "Use a model with a projector.")
        try:
            with Image.open(io.BytesIO(media.data)) as image:
                width, height = image.size
        except (UnidentifiedImageError, OSError) as error:
            raise InputRefusedError("image", "it cannot be decoded") from error
        digest = hashlib.sha256(media.data).hexdigest()
        handle = next(self._handles)
        cell = -1 - int(digest[:15], 16)
        self._media[handle] = digest, cell
        self._names[cell] = f"[image {width}x{height}]"
        return MediaPiece(handle, digest, MEDIA_POSITIONS)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The bytes; control tokens have none."""
        return b"".join(map(_piece, tokens))

    def release(self, media: Sequence[int]) -> None:
        """Forget prepared images."""
        for handle in media:
            self._media.pop(handle, None)

    @property
    def prepared_media(self) -> int:
        """How many images are held."""
        return len(self._media)

    def interrupt(self) -> None:
        """End a slow step."""
        self._interrupted.set()

    def open(self, slot: int, options: SlotOptions) -> None:
        """A grammar must at least not be empty; it is not obeyed."""
        if options.grammar is not None and not options.grammar.text.strip():
            raise RequestError("The grammar is empty.", "Give one with a root rule.")
        self._slot(slot).logprobs = options.logprobs

    def step(self, step: Step) -> StepResult:
        """Trim, compute, sample."""
        try:
            return self._step(step)
        finally:
            self._interrupted.clear()

    def _step(self, step: Step) -> StepResult:
        started = time.perf_counter()
        saved, kept = self._rearrange(step)
        before = {row.slot: len(self._slot(row.slot).cells) for row in step.rows}
        outputs = tuple(output for row in step.rows if (output := self._compute(row)) is not None)
        if self._interrupted.is_set():
            for slot, size in before.items():
                del self._slots[slot].cells[size:]
            return StepResult(kept=kept | before, saved=saved, status="interrupted")
        seconds = time.perf_counter() - started
        return StepResult(kept=kept, saved=saved, outputs=outputs, compute_seconds=seconds)

    def _rearrange(self, step: Step) -> tuple[dict[int, int], dict[int, int]]:
        """What comes before the rows: the bytes of checkpoints, and what forks and trims kept."""
        for checkpoint in step.drops:
            self._checkpoints.pop(checkpoint, None)
        for save in step.saves:
            self._checkpoints[save.checkpoint] = len(self._slot(save.slot).cells)
        saved = {save.checkpoint: CHECKPOINT_BYTES for save in step.saves}
        kept = {fork.target: self._fork(fork) for fork in step.forks}
        trims = {trim.slot: self._trim(self._slot(trim.slot), trim.keep, trim.spare) for trim in step.trims}
        return saved, kept | trims

    def _slot(self, index: int) -> _Slot:
        if not 0 <= index < len(self._slots):
            raise StepFailedError(f"There is no slot {index}; there are {len(self._slots)}.")
        return self._slots[index]

    def _trim(self, slot: _Slot, keep: int, spare: Spare | None) -> int:
        if self._info.window and slot.oldest > max(0, keep - self._info.window):
            keep = self._restored(slot, keep, spare)
        del slot.cells[keep:]
        slot.oldest = min(slot.oldest, keep)
        return keep

    def _restored(self, slot: _Slot, keep: int, spare: Spare | None) -> int:
        positions = 0 if spare is None else self._checkpoints.get(spare.checkpoint, 0)
        if not 0 < positions <= keep:
            return 0
        slot.oldest = max(0, positions - self._info.window)
        return positions

    def _fork(self, fork: Fork) -> int:
        source, target = self._slot(fork.source), self._slot(fork.target)
        if fork.source == fork.target or not 0 < fork.keep <= len(source.cells):
            raise StepFailedError(f"{fork.keep} positions of slot {fork.source} cannot go to slot {fork.target}.")
        target.cells, target.oldest = list(source.cells), source.oldest
        return self._trim(target, fork.keep, fork.spare)

    def _compute(self, row: TokenRow | MediaRow) -> Output | None:
        slot = self._slots[row.slot]
        if row.position != len(slot.cells):
            raise StepFailedError(f"Position {row.position} does not follow {len(slot.cells)} cached ones.")
        if isinstance(row, MediaRow):
            if row.media not in self._media:
                raise StepFailedError(f"There is no image {row.media}; it was released.")
            slot.cells += [self._media[row.media][1]] * MEDIA_POSITIONS
            return None
        if row.draft and not (row.sample and row.draft < len(row.tokens) and row.draft <= DRAFT_TOKENS):
            raise StepFailedError(f"The row of slot {row.slot} cannot have {row.draft} guesses.")
        known = len(row.tokens) - row.draft
        slot.cells += row.tokens[:known]
        reply = _Reply.of(slot.cells, self._names)
        self._obey(reply)
        output = self._sampled(row, slot, reply, row.tokens[known:]) if row.sample else None
        if self._info.window:
            slot.oldest = max(slot.oldest, len(slot.cells) - 2 * self._info.window)
        return output

    def _sampled(self, row: TokenRow, slot: _Slot, reply: "_Reply", guesses: Sequence[int]) -> Output:
        """Tokens as long as the guesses are right; an order is carried out a token a step."""
        if reply.order is not None and reply.order.stuck:
            return Output(row.slot, (), describe(RequestError("The turn ordered that no token be chosen.")))
        chosen = [_sample(reply, slot.logprobs)]
        for guess in () if reply.order else guesses:
            if chosen[-1].end or chosen[-1].token != guess:
                break
            slot.cells.append(guess)
            chosen.append(_sample(_Reply.of(slot.cells, self._names), slot.logprobs))
        return Output(row.slot, tuple(chosen))

    def _obey(self, reply: "_Reply") -> None:
        """Delays and accidents that the user turn orders."""
        order = reply.order
        if order is None:
            return
        until = time.monotonic() + order.seconds
        while (time.monotonic() < until or order.held()) and not self._interrupted.is_set():
            self._interrupted.wait(POLL_SECONDS)
        if order.dies_at is not None and reply.said >= order.dies_at and order.once():
            self._die()
        if order.hangs and order.once():
            threading.Event().wait()
        if order.fails:
            raise StepFailedError("The turn ordered a failure.")

    def close(self) -> None:
        """Nothing is held."""
        self._media.clear()


@dataclass(frozen=True)
class _Reply:
    """What the cached positions call for: the reply's text, and how much of it was said."""

    text: bytes
    said: int
    order: Order | None

    @classmethod
    def of(cls, cells: Sequence[int], names: dict[int, str]) -> "_Reply":
        if FIM_MIDDLE in cells:
            return cls._in_the_middle(cells)
        turns = _turns(cells, names)
        said = len(turns[-1][1]) if turns and turns[-1][0] == b"model" else 0
        asked = next((text for role, text in reversed(turns) if role == b"user"), None)
        if asked is None:  # a plain prompt: say it again
            plain = bytes(cell - BYTES for cell in cells if cell >= BYTES)
            return cls(plain, 0, None) if not turns else cls(b"", said, None)
        order = Order.parse(asked)
        return cls(order.text if order else asked, said, order)

    @classmethod
    def _in_the_middle(cls, cells: Sequence[int]) -> "_Reply":
        """Between a prefix and a suffix belong their lengths, as a comment."""
        prefix, suffix, middle = (cells.index(marker) for marker in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
        text = f"# {suffix - prefix - 1} before, {middle - suffix - 1} after"
        return cls(text.encode(), len(cells) - middle - 1, None)


def _turns(cells: Sequence[int], names: dict[int, str]) -> list[tuple[bytes, bytes]]:
    """(role, text) of each turn; the last one may be unfinished."""
    turns: list[tuple[bytes, bytes]] = []
    for part in _split(cells, START)[1:]:
        body = _split(part, END)[0]
        text = b"".join(_cell_texts(body, names))
        role, _, content = text.partition(b"\n")
        turns.append((role, content))
    return turns


def _cell_texts(cells: Sequence[int], names: dict[int, str]) -> Iterable[bytes]:
    for cell, group in itertools.groupby(cells):
        count = len(list(group))
        if cell < 0:
            yield names[cell].encode() * (count // MEDIA_POSITIONS)
        elif cell >= BYTES:
            yield bytes([cell - BYTES]) * count


def _split(cells: Sequence[int], marker: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for cell in cells:
        if cell == marker:
            parts.append([])
        else:
            parts[-1].append(cell)
    return parts


def _sample(reply: _Reply, logprobs: int | None) -> Sampled:
    end = reply.said >= len(reply.text)
    token = EOS if end else reply.text[reply.said] + BYTES
    piece = b"" if end else bytes([token - BYTES])
    logprob = None
    if logprobs is not None:
        # The other tokens share what the chosen one leaves: one thousandth.
        chosen = math.log(0.999)
        logprob = TokenLogprob(token, piece, chosen, ((token, piece, chosen),)[:logprobs])
    return Sampled(token, piece, end, logprob)


def _piece(token: int) -> bytes:
    return bytes((token - BYTES,)) if BYTES <= token < BYTES + 256 else b""


def _text_ids(text: str) -> list[int]:
    return [byte + BYTES for byte in text.encode("utf-8", "replace")]


def _control_ids(text: str) -> list[int]:
    ids: list[int] = []
    while text:
        name = next((name for name in CONTROLS if text.startswith(name)), None)
        if name is not None:
            ids.append(CONTROLS[name])
            text = text.removeprefix(name)
        else:
            ids += _text_ids(text[0])
            text = text[1:]
    return ids
