"""A worker at the scheduler's seam that believes nothing: it checks every step, and dies, fails and dawdles to order.

What it says next is a checksum of the cells in its cache, of the request's seed and of how often it sampled for it. So
a reply equals the `oracle`'s only if every trim, reuse, restart and replay was right to the last token.
"""

import hashlib
import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from gemma_mcp.engine.backend import (
    Fork,
    MediaPiece,
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
from gemma_mcp.errors import StepFailedError, WorkerDiedError
from gemma_mcp.types import Media, ModelInfo, Segment

CONTEXT = 96
IMAGE_POSITIONS = 3
CHECKPOINT_BYTES = 100
END = 0


def next_token(seed: int, said: int, cells: Sequence[int]) -> int:
    """A letter, mostly the fifth one back, or about every twentieth time the end."""
    value = zlib.crc32(struct.pack(f"<{len(cells) + 2}q", seed, said, *cells))
    if value % 20 == 0:
        return END
    repeats = value % 7 and len(cells) >= 5 and 97 <= cells[-5] < 123
    return cells[-5] if repeats else 97 + value % 26


def piece(token: int) -> bytes:
    return b"" if token == END else bytes([token])


def image_cells(data: bytes) -> list[int]:
    return [-1 - int(hashlib.sha256(data).hexdigest()[:15], 16)] * IMAGE_POSITIONS


def prompt_cells(segments: Sequence[Segment]) -> list[int]:
    cells: list[int] = []
    for segment in segments:
        cells += image_cells(segment.data) if isinstance(segment, Media) else segment.text.encode()
    return cells


def oracle(segments: Sequence[Segment], seed: int, limit: int) -> tuple[str, int, bool]:
    """What a model alone, that never fails, replies: the text, its tokens, whether it ended by itself."""
    cells = prompt_cells(segments)
    said = bytearray()
    while len(said) < limit:
        token = next_token(seed, len(said), cells)
        if token == END:
            return said.decode(), len(said), True
        said.append(token)
        cells.append(token)
    return said.decode(), len(said), False


@dataclass(frozen=True)
class Faults:
    """What goes wrong: numbers of steps, counted over all workers. `capacity` bounds the cells of all slots."""

    deaths: frozenset[int] = frozenset()
    failures: frozenset[int] = frozenset()
    interrupts: frozenset[int] = frozenset()
    poison: frozenset[int] = frozenset()
    """Seeds of requests that kill the worker whenever they sample their third token."""
    bad_options: frozenset[int] = frozenset()
    """Seeds of requests whose options kill the worker."""
    bad_image: bytes = b""
    """An image whose encoding kills the worker."""
    capacity: int = 1_000_000
    window: int = 0
    stingy_trims: bool = False
    """Trims keep less than they were asked to, now and then."""
    slow_images: bool = False
    """Encoding takes many turns of the loop."""
    forks: bool = True
    draft_tokens: int = 5


@dataclass
class Record:
    """What happened, over all workers of a run. `computed`: cells computed for a seed before it first sampled."""

    steps: int = 0
    workers: int = 0
    died_with: list[frozenset[int]] = field(default_factory=list[frozenset[int]])
    """Seeds in each fatal step, or whose options were set when the worker died."""
    died_encoding: list[tuple[Segment, ...]] = field(default_factory=list[tuple[Segment, ...]])
    failed: set[int] = field(default_factory=set[int])
    forks: int = 0
    restored: int = 0
    guessed: int = 0
    full: bool = False
    interrupted: bool = False
    computed: dict[int, int] = field(default_factory=dict[int, int])
    wrong: list[str] = field(default_factory=list[str])


@dataclass
class Cells:
    """One slot."""

    cells: list[int] = field(default_factory=list[int])
    oldest: int = 0
    seed: int | None = None
    said: int = 0
    computed: int = 0


class ScriptedWorker:
    """An AsyncExecutor without a process."""

    def __init__(self, *, slots: int, step_tokens: int, faults: Faults, record: Record, chance: random.Random) -> None:
        self.info = ModelInfo(
            architecture="scripted",
            description="",
            runtime="none",
            device="CPU",
            vocab_size=256,
            context_length=CONTEXT,
            slots=slots,
            step_tokens=step_tokens,
            window=faults.window,
            forks=faults.forks,
            draft_tokens=faults.draft_tokens,
        )
        self.pid = record.workers
        self.slots = [Cells() for _ in range(slots)]
        self.images: dict[int, bytes] = {}
        self.checkpoints: dict[int, list[int]] = {}
        self._doubtful: set[int] = set()
        self.faults = faults
        self._record = record
        self._chance = chance
        self._gone = anyio.Event()
        self._interrupted = False
        self._stepping = False
        self._handle = 0
        record.workers += 1

    @property
    def alive(self) -> bool:
        return not self._gone.is_set()

    async def died(self) -> None:
        await self._gone.wait()

    def die(self) -> None:
        self._gone.set()

    async def _dawdle(self, most: int = 4) -> None:
        for _ in range(self._chance.randrange(most)):
            await anyio.lowlevel.checkpoint()
        if not self.alive:
            raise WorkerDiedError("It died.")

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self._record.wrong.append(f"step {self._record.steps}: {what}")

    async def encode(self, segments: Sequence[Segment]) -> tuple[Piece, ...]:
        if not self.alive:
            raise WorkerDiedError("It was dead before.")
        try:
            await self._dawdle(300 if self.faults.slow_images else 4)
            if Media(self.faults.bad_image) in segments:
                self.die()
            await self._dawdle()
        except WorkerDiedError:
            self._record.died_encoding.append(tuple(segments))
            raise
        return tuple(self._piece(segment) for segment in segments)

    def _piece(self, segment: Segment) -> Piece:
        if not isinstance(segment, Media):
            return TokenPiece(tuple(segment.text.encode()))
        self._handle += 1
        self.images[self._handle] = segment.data
        return MediaPiece(self._handle, hashlib.sha256(segment.data).hexdigest(), IMAGE_POSITIONS)

    def release(self, media: Sequence[int]) -> None:
        for handle in media:
            self._check(handle in self.images, f"image {handle} is released, and it is not there")
            self.images.pop(handle, None)

    def interrupt(self) -> None:
        if self._stepping:
            self._interrupted = True

    async def open(self, slot: int, options: SlotOptions) -> None:
        seed = options.sampling.seed
        assert seed is not None
        try:
            if seed in self.faults.bad_options:
                self.die()
            await self._dawdle()
        except WorkerDiedError:
            self._record.died_with.append(frozenset({seed}))
            raise
        cells = self.slots[slot]
        cells.seed, cells.said, cells.computed = seed, len(options.history), 0

    async def step(self, step: Step) -> StepResult:
        self._record.steps += 1
        self._check_step(step)
        self._stepping, self._interrupted = True, self._record.steps in self.faults.interrupts
        forked = [fork.target for fork in step.forks]
        seeds = self._seeds([row.slot for row in step.rows])
        try:
            self._have_accidents(step, seeds)
            await self._dawdle()
            return self._run(step)
        except WorkerDiedError:
            self._record.died_with.append(seeds | self._seeds(forked))
            raise
        finally:
            self._stepping = False

    def _seeds(self, slots: Sequence[int]) -> frozenset[int]:
        return frozenset(seed for slot in slots if (seed := self.slots[slot].seed) is not None)

    def _check_step(self, step: Step) -> None:
        rows = [row.slot for row in step.rows]
        self._check(not step.empty, "the step is empty")
        self._check(len(set(rows)) == len(rows), "a slot has two rows")
        counts = [len(row.tokens) for row in step.rows if isinstance(row, TokenRow)]
        self._check(sum(counts) <= self.info.step_tokens, f"{sum(counts)} tokens in one step")
        self._check(0 not in counts, "a row has no tokens")
        drafts = [row.draft for row in step.rows if isinstance(row, TokenRow)]
        self._check(sum(drafts) <= self.info.draft_tokens, "too many guesses")
        fit = all(
            not row.draft or (row.sample and row.draft < len(row.tokens))
            for row in step.rows
            if isinstance(row, TokenRow)
        )
        self._check(fit, "a guess without a token before it")

    def _have_accidents(self, step: Step, seeds: frozenset[int]) -> None:
        sampled = [self.slots[row.slot] for row in step.rows if isinstance(row, TokenRow) and row.sample]
        poisoned = any(slot.seed in self.faults.poison and slot.said == 2 for slot in sampled)
        if poisoned or self._record.steps in self.faults.deaths:
            self.die()
        elif self._record.steps in self.faults.failures and seeds:
            self._record.failed |= seeds
            self._doubtful |= {*step.drops, *(save.checkpoint for save in step.saves)}
            if self._chance.random() < 0.5:
                self._rearrange(step)
            raise StepFailedError("The pass failed.")

    def _run(self, step: Step) -> StepResult:
        saved, kept = self._rearrange(step)
        before = {row.slot: len(self.slots[row.slot].cells) for row in step.rows}
        for row in step.rows:
            self._check(row.position == before[row.slot], f"position {row.position} after {before[row.slot]} cells")
        if self._interrupted:
            self._record.interrupted = True
            return StepResult(
                kept=kept | {row.slot: self._compute_part(row) for row in step.rows}, saved=saved, status="interrupted"
            )
        added = {row.slot: self._cells_of(row) for row in step.rows}
        if sum(len(slot.cells) for slot in self.slots) + sum(map(len, added.values())) > self.faults.capacity:
            self._record.full = True
            return StepResult(kept=kept | before, saved=saved, status="no_room")
        for index, cells in added.items():
            self._add(self.slots[index], cells)
        return StepResult(kept=kept, saved=saved, outputs=tuple(self._outputs(step)))

    def _rearrange(self, step: Step) -> tuple[dict[int, int], dict[int, int]]:
        for checkpoint in step.drops:
            known = checkpoint in self.checkpoints or checkpoint in self._doubtful
            self._check(known, f"checkpoint {checkpoint} is dropped, and it is not there")
            self.checkpoints.pop(checkpoint, None)
        for save in step.saves:
            self._check(save.checkpoint not in self.checkpoints, f"checkpoint {save.checkpoint} is made twice")
            self.checkpoints[save.checkpoint] = list(self.slots[save.slot].cells)
        saved = {save.checkpoint: CHECKPOINT_BYTES for save in step.saves}
        kept = {fork.target: self._fork(fork) for fork in step.forks}
        trims = {trim.slot: self._trim(self.slots[trim.slot], trim.keep, trim.spare) for trim in step.trims}
        self._check(not set(kept) & set(trims), "a slot is trimmed and forked to")
        return saved, kept | trims

    def _fork(self, fork: Fork) -> int:
        source, target = self.slots[fork.source], self.slots[fork.target]
        self._check(fork.source != fork.target, "a slot is forked onto itself")
        self._check(0 < fork.keep <= len(source.cells), f"a fork of {fork.keep} of {len(source.cells)} cells")
        target.cells, target.oldest = list(source.cells), source.oldest
        self._record.forks += 1
        return self._trim(target, fork.keep, fork.spare)

    def _outputs(self, step: Step) -> list[Output]:
        return [self._output(row) for row in step.rows if isinstance(row, TokenRow) and row.sample]

    def _output(self, row: TokenRow) -> Output:
        """A token after the known ones, and after each guess that is right."""
        slot = self.slots[row.slot]
        guesses = slot.cells[len(slot.cells) - row.draft :] if row.draft else []
        del slot.cells[len(slot.cells) - row.draft :]
        chosen = [self._sample(slot)]
        for guess in guesses:
            if chosen[-1].end or chosen[-1].token != guess:
                break
            self._record.guessed += 1
            slot.cells.append(guess)
            chosen.append(self._sample(slot))
        return Output(row.slot, tuple(chosen))

    def _cells_of(self, row: object) -> list[int]:
        if isinstance(row, TokenRow):
            self._check(all(token >= 0 for token in row.tokens), "a row holds an image's cell")
            return list(row.tokens)
        data = self.images.get(getattr(row, "media", 0))
        self._check(data is not None, "an image is to be computed that is not there")
        return image_cells(data or b"")

    def _compute_part(self, row: object) -> int:
        """An interrupted row may have got some way, but images are whole or not there."""
        cells = self._cells_of(row)
        slot = self.slots[getattr(row, "slot", 0)]
        part = self._chance.randrange(len(cells) + 1) if isinstance(row, TokenRow) else 0
        self._add(slot, cells[:part])
        return len(slot.cells)

    def _add(self, slot: Cells, cells: list[int]) -> None:
        slot.cells += cells
        slot.computed += len(cells)
        if self.faults.window:
            slot.oldest = max(slot.oldest, len(slot.cells) - 2 * self.faults.window)

    def _trim(self, slot: Cells, keep: int, spare: Spare | None) -> int:
        self._check(keep <= len(slot.cells), f"a trim to {keep} of {len(slot.cells)} cells")
        if self.faults.stingy_trims and self._chance.random() < 0.3:
            keep = self._chance.randrange(keep + 1)
        if self.faults.window and slot.oldest > max(0, keep - self.faults.window):
            keep = self._restored(slot, keep, spare)
        del slot.cells[keep:]
        slot.oldest = min(slot.oldest, keep)
        return keep

    def _restored(self, slot: Cells, keep: int, spare: Spare | None) -> int:
        if spare is None:
            return 0
        cells = self.checkpoints.get(spare.checkpoint)
        self._check(cells is not None, f"checkpoint {spare.checkpoint} is not there")
        self._check(cells == slot.cells[: spare.positions], f"checkpoint {spare.checkpoint} is of other cells")
        if spare.positions > keep:  # a stingy trim went before it
            return 0
        self._record.restored += 1
        slot.oldest = max(0, spare.positions - self.faults.window)
        return spare.positions

    def _sample(self, slot: Cells) -> Sampled:
        assert slot.seed is not None
        if slot.said == 0:
            self._record.computed[slot.seed] = slot.computed
        token = next_token(slot.seed, slot.said, slot.cells)
        slot.said += 1
        return Sampled(token, piece(token), token == END)
