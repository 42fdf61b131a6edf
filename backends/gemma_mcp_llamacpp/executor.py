"""A loaded model: prompts to pieces, steps to tokens."""

import threading
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from gemma_mcp.engine.backend import (
    Fork,
    MediaRow,
    Output,
    Piece,
    Row,
    Sampled,
    Save,
    SlotOptions,
    Step,
    StepResult,
    TokenPiece,
    TokenRow,
    Trim,
)
from gemma_mcp.errors import GemmaError, RequestError, StepFailedError, UnsupportedError, describe
from gemma_mcp.types import Control, Media, ModelInfo, Segment, Tokens
from gemma_mcp_llamacpp.candidates import Candidates
from gemma_mcp_llamacpp.log import Reasons, native_log
from gemma_mcp_llamacpp.media import Projector
from gemma_mcp_llamacpp.native import ABORTED, DONE, DRAFT_TOKENS, NO_ROOM, Context, Model, Saved
from gemma_mcp_llamacpp.samplers import Chooser
from gemma_mcp_llamacpp.threads import Threads
from gemma_mcp_llamacpp.vocabulary import Vocabulary, merge

__all__ = ["LlamaCppExecutor"]

Status = Literal["done", "interrupted", "no_room"]
Logits = dict[int, NDArray[np.float32]]


class LlamaCppExecutor:
    """An `Executor` on llama.cpp. It owns the model, its projector and its context."""

    def __init__(
        self,
        info: ModelInfo,
        model: Model,
        vocabulary: Vocabulary,
        projector: Projector | None,
        context: Context,
        threads: Threads,
    ) -> None:
        self.info = info
        self._model = model
        self._vocabulary = vocabulary
        self._projector = projector
        self._context = context
        self._threads = threads
        self._candidates = Candidates(vocabulary.size)
        self._choosers: dict[int, Chooser] = {}
        self._checkpoints: dict[int, Saved] = {}
        self._lengths = [0] * context.slots
        self._reading = threading.Lock()
        self._closed = False

    def encode(self, segments: Sequence[Segment]) -> list[Piece]:
        """*Any thread.* The prompt as tokens and images; see `Executor.encode`."""
        pieces: list[Piece] = []
        with self._reading:
            self._check_open()
            try:
                self._encode(segments, pieces)
            except BaseException:
                self.release([piece.media for piece in pieces if not isinstance(piece, TokenPiece)])
                raise
        return _joined(self._vocabulary, pieces)

    def decode(self, tokens: Sequence[int]) -> bytes:
        """*Any thread.* The text of tokens; control tokens have none."""
        with self._reading:
            self._check_open()
            return self._vocabulary.detokenize(tokens)

    def release(self, media: Sequence[int]) -> None:
        """*Any thread.* Forget images that `encode` prepared."""
        if self._projector is not None and media:
            self._projector.release(media)

    def interrupt(self) -> None:
        """*Any thread.* End the running step early, or the next one."""
        self._context.stop(True)

    def open(self, slot: int, options: SlotOptions) -> None:
        """Set how a slot samples from now on."""
        self._check_open()
        if not 0 <= slot < self._context.slots:
            raise RequestError(f"There is no slot {slot}; this model has {self._context.slots}.")
        chooser = Chooser(self._vocabulary, options, self._candidates, self.info.context_length)
        old = self._choosers.pop(slot, None)
        if old is not None:
            old.close()
        self._choosers[slot] = chooser

    def step(self, step: Step) -> StepResult:
        """Trim, compute, sample."""
        self._check_open()
        try:
            return self._step(step)
        finally:
            self._context.stop(False)

    def close(self) -> None:
        """Free everything, what depends on something before it."""
        with self._reading:
            if self._closed:
                return
            self._closed = True
        for chooser in self._choosers.values():
            chooser.close()
        self._choosers.clear()
        if self._projector is not None:
            self._projector.close()
        self._context.close()
        self._model.close()

    def _encode(self, segments: Sequence[Segment], pieces: list[Piece]) -> None:
        texts: list[tuple[bool, str]] = []
        for segment in segments:
            if isinstance(segment, Tokens) and segment.hold(self._vocabulary.plain_piece):
                pieces += (self._tokens(texts), TokenPiece(segment.ids))
                texts.clear()
                continue
            if not isinstance(segment, Media):
                texts.append((isinstance(segment, Control), segment.text))
                continue
            if self._projector is None:
                raise UnsupportedError("This model cannot see images.", "Use one that comes with a projector (mmproj).")
            pieces.append(self._tokens(texts))
            texts.clear()
            pieces.extend(self._projector.prepare(segment.data, self.info.step_tokens))
        pieces.append(self._tokens(texts))

    def _tokens(self, texts: Sequence[tuple[bool, str]]) -> TokenPiece:
        runs = [self._vocabulary.tokenize(text, special=control) for control, text in merge(texts)]
        return TokenPiece(tuple(token for run in runs for token in run))

    def _step(self, step: Step) -> StepResult:
        saved, kept = self._rearrange(step)
        result = self._compute(step.rows)
        return structs.replace(result, kept=kept | result.kept, saved=saved)

    def _rearrange(self, step: Step) -> tuple[dict[int, int], dict[int, int]]:
        """What comes before the rows: the bytes of checkpoints, and what forks and trims kept."""
        for checkpoint in step.drops:
            self._checkpoints.pop(checkpoint, None)
        saved = {save.checkpoint: self._save(save) for save in step.saves}
        kept = {fork.target: self._fork(fork) for fork in step.forks}
        return saved, kept | {trim.slot: self._trim(trim) for trim in step.trims}

    def _compute(self, step_rows: Sequence[Row]) -> StepResult:
        tokens = [row for row in step_rows if isinstance(row, TokenRow)]
        media = [row for row in step_rows if isinstance(row, MediaRow)]
        started = time.perf_counter()
        rows, status = self._compute_tokens(tokens)
        saved = self._saved(tokens, rows) if media and status == "done" else None
        if saved is not None:
            status = self._compute_media(media)
        computed = time.perf_counter()
        if status != "done":
            kept = {row.slot: self._resync(row.slot) for row in step_rows}
            return StepResult(kept=kept, status=status, compute_seconds=computed - started)
        outputs = self._sample(tokens, rows, saved)
        return StepResult(
            outputs=outputs,
            compute_seconds=computed - started,
            sample_seconds=time.perf_counter() - computed,
        )

    def _save(self, save: Save) -> int:
        self._check_slot(save.slot)
        saved = self._checkpoints[save.checkpoint] = self._context.save(save.slot)
        return len(saved.state)

    def _trim(self, trim: Trim) -> int:
        self._check_slot(trim.slot)
        kept = self._lengths[trim.slot] = self._context.trim(trim.slot, max(0, trim.keep), self._spare(trim))
        return kept

    def _fork(self, fork: Fork) -> int:
        self._check_slot(fork.source)
        self._check_slot(fork.target)
        if fork.source == fork.target or not 0 < fork.keep <= self._lengths[fork.source]:
            raise StepFailedError(f"{fork.keep} positions of slot {fork.source} cannot go to slot {fork.target}.")
        kept = self._context.fork(fork.source, fork.target, fork.keep, self._spare(fork))
        self._lengths[fork.target] = kept
        return kept

    def _spare(self, change: Trim | Fork) -> Saved | None:
        """The checkpoint that a trim or fork may fall back on."""
        saved = None if change.spare is None else self._checkpoints.get(change.spare.checkpoint)
        return saved if saved is not None and 0 < saved.positions <= change.keep else None

    def _compute_tokens(self, rows: Sequence[TokenRow]) -> tuple[list[int], Status]:
        if not rows:
            return [], "done"
        self._check(rows)
        self._context.use_threads(self._threads.count())
        last = self._context.batch.fill(rows)
        with native_log().errors() as reasons:
            status = self._status(self._context.decode(), reasons)
        if status == "done":
            for row in rows:
                self._lengths[row.slot] += len(row.tokens)
        return last, status

    def _compute_media(self, rows: Sequence[MediaRow]) -> Status:
        for row in rows:
            self._check_place(row)
            if self._projector is None:
                raise StepFailedError("This model has no projector.")
            if self._context.stopping:
                return "interrupted"
            with native_log().errors() as reasons:
                code = self._projector.compute(self._context, row.media, row.slot, row.position)
                status = self._status(code, reasons)
            if status != "done":
                return status
            self._lengths[row.slot] += self._projector.positions(row.media)
        return "done"

    def _status(self, code: int, reasons: Reasons) -> Status:
        if code == DONE:
            return "done"
        if code == NO_ROOM:
            return "no_room"
        if code == ABORTED:
            return "interrupted"
        for slot in range(self._context.slots):
            self._resync(slot)
        raise StepFailedError(f"llama.cpp failed with code {code}: {reasons}.")

    def _resync(self, slot: int) -> int:
        length = self._lengths[slot] = self._context.length(slot)
        return length

    def _saved(self, rows: Sequence[TokenRow], last: Sequence[int]) -> Logits:
        """Copies of the logits that are still to be sampled from: the next pass overwrites them."""
        size = self._vocabulary.size
        outputs = [i - guess for row, i in zip(rows, last, strict=True) if row.sample for guess in range(row.draft + 1)]
        return {i: self._context.logits(i, size).copy() for i in outputs}

    def _sample(self, rows: Sequence[TokenRow], last: Sequence[int], saved: Logits | None) -> tuple[Output, ...]:
        outputs: list[Output] = []
        for row, index in zip(rows, last, strict=True):
            if row.sample:
                outputs.append(self._choose(row, index, saved or {}))
            if row.draft:
                self._drop_guesses(row, outputs[-1])
        return tuple(outputs)

    def _choose(self, row: TokenRow, last: int, saved: Logits) -> Output:
        """Tokens as long as the guesses are right. A slot that can choose nothing is no fault of the others."""
        chosen: list[Sampled] = []
        guesses = row.tokens[len(row.tokens) - row.draft :]
        try:
            for index, guess in zip(range(last - row.draft, last + 1), (*guesses, None), strict=True):
                sampled = self._choosers[row.slot].choose(self._context, index, saved.get(index))
                chosen.append(sampled)
                if sampled.end or sampled.token != guess:
                    break
        except GemmaError as error:
            return Output(row.slot, tuple(chosen), describe(error))
        return Output(row.slot, tuple(chosen))

    def _drop_guesses(self, row: TokenRow, output: Output) -> None:
        """Positions after the last right guess. The window is whole there: a pass takes cells that no position before
        it needs, and none was needed by the guesses alone.
        """
        keep = row.position + len(row.tokens) - row.draft + max(0, len(output.tokens) - 1)
        if keep < self._lengths[row.slot]:
            kept = self._lengths[row.slot] = self._context.trim(row.slot, keep, None)
            if kept != keep:
                raise StepFailedError(f"Slot {row.slot} lost its window with a guess.")

    def _check(self, rows: Sequence[TokenRow]) -> None:
        """Refuse what llama.cpp would answer with an abort of the process."""
        total = 0
        ends: dict[int, int] = {}
        for row in rows:
            self._check_slot(row.slot)
            if row.slot in ends:
                raise StepFailedError(f"Slot {row.slot} has two token rows in one step.")
            if not row.tokens:
                raise StepFailedError(f"The row of slot {row.slot} has no tokens.")
            if row.sample and row.slot not in self._choosers:
                raise StepFailedError(f"Slot {row.slot} was not opened.")
            if row.draft and not (row.sample and 0 < row.draft < len(row.tokens)):
                raise StepFailedError(f"The row of slot {row.slot} has {row.draft} guesses and no token before them.")
            self._check_place(row)
            ends[row.slot] = row.position
            total += len(row.tokens)
        if sum(row.draft for row in rows) > DRAFT_TOKENS:
            raise StepFailedError(f"A step has more than {DRAFT_TOKENS} guesses.")
        if total > self._context.step_tokens:
            raise StepFailedError(f"A step of {total} tokens is more than {self._context.step_tokens}.")

    def _check_place(self, row: TokenRow | MediaRow) -> None:
        self._check_slot(row.slot)
        if row.position != self._lengths[row.slot]:
            raise StepFailedError(
                f"Slot {row.slot} holds {self._lengths[row.slot]} positions, but a row starts at {row.position}."
            )

    def _check_open(self) -> None:
        if self._closed:
            raise StepFailedError("The model was closed.")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self._context.slots:
            raise StepFailedError(f"There is no slot {slot}; this model has {self._context.slots}.")


def _joined(vocabulary: Vocabulary, pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbouring token runs as one, the beginning-of-sequence token first and only there, nothing empty."""
    joined: list[Piece] = []
    run: list[int] = []
    for piece in (*pieces, None):
        if isinstance(piece, TokenPiece):
            run.extend(piece.ids)
            continue
        run = vocabulary.without_bos(run) if joined else vocabulary.with_bos(run)
        if run:
            joined.append(TokenPiece(tuple(run)))
            run = []
        if piece is not None:
            joined.append(piece)
    return joined
