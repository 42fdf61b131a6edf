"""The sliding window under load: slots that share cells, trimmed at random, against runs that never were."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from llamacpp_models import SMALL, Load

from gemma_mcp.engine.backend import Executor, Fork, Output, Save, SlotOptions, Spare, Step, TokenPiece, TokenRow, Trim
from gemma_mcp.testing.generation import GREEDY, prefill
from gemma_mcp.types import TokenLogprob

SLOTS, STEP_TOKENS, ROUNDS = 3, 64, 100
NOISE = 0.02
"""Other batch shapes move a log-probability by 0.006 at most here; a window that misses keys by 0.1 and more."""


class Slots:
    """What each slot should hold, and a single slot to compute it afresh."""

    def __init__(self, load: Load, path: Path, seed: int, swa_full: bool) -> None:
        self.random = random.Random(seed)
        options = msgspec.structs.replace(SMALL, slots=SLOTS, step_tokens=STEP_TOKENS, swa_full=swa_full)
        self.shared = load(path, options)
        self.alone = load(path, msgspec.structs.replace(options, slots=1))
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]
        self.kept = self.dropped = self.forked = self.restored = 0
        self.checkpoints: dict[int, list[int]] = {}
        self.numbers = itertools.count()
        everything = SlotOptions(sampling=GREEDY.sampling, logprobs=self.shared.info.vocab_size)
        for slot in range(SLOTS):
            self.shared.open(slot, everything)
        self.alone.open(0, everything)

    def trim(self) -> None:
        """Shorten some slots, some a little, some far."""
        chosen = [slot for slot in range(SLOTS) if self.held[slot] and self.random.random() < 0.25]
        keeps = [self.random.randrange(max(0, len(self.held[slot]) - 100), len(self.held[slot])) for slot in chosen]
        trims = tuple(Trim(slot, keep) for slot, keep in zip(chosen, keeps, strict=True))
        for slot, kept in self.shared.step(Step(trims=trims)).kept.items():
            self.kept += kept > 0
            self.dropped += kept == 0
            del self.held[slot][kept:]

    def save(self) -> None:
        """Make a checkpoint of a slot, and drop one now and then."""
        number = next(self.numbers)
        slot = self.random.randrange(SLOTS)
        drops = tuple(number for number in self.checkpoints if self.random.random() < 0.2)
        for drop in drops:
            del self.checkpoints[drop]
        saves = (Save(slot, number),) if self.held[slot] else ()
        assert set(self.shared.step(Step(drops=drops, saves=saves)).saved) == {save.checkpoint for save in saves}
        if saves:
            self.checkpoints[number] = list(self.held[slot])

    def fork(self) -> None:
        """Let a slot begin as another one, mostly with a checkpoint at hand."""
        source, target = self.random.sample(range(SLOTS), 2)
        if not self.held[source]:
            return
        fitting = [
            Spare(number, len(ids)) for number, ids in self.checkpoints.items() if self.held[source][: len(ids)] == ids
        ]
        spare = self.random.choice([*fitting, None])
        lowest = spare.positions if spare is not None else max(1, len(self.held[source]) - 100)
        keep = self.random.choice([lowest, self.random.randint(lowest, len(self.held[source])), len(self.held[source])])
        kept = self.shared.step(Step(forks=(Fork(source, target, keep, spare),))).kept[target]
        self.held[target] = self.held[source][:kept]
        self.forked += kept > 0
        self.restored += spare is not None and kept == spare.positions

    def grow(self) -> Sequence[Output]:
        """Add to every slot a token or a stretch."""
        rows: list[TokenRow] = []
        for slot in self.random.sample(range(SLOTS), SLOTS):
            room = STEP_TOKENS - sum(len(row.tokens) for row in rows)
            count = min(self.random.choice([1, 1, 10, STEP_TOKENS]), room, 1000 - len(self.held[slot]))
            tokens = tuple(self.random.randrange(290, self.shared.info.vocab_size) for _ in range(count))
            if tokens:
                rows.append(TokenRow(slot, len(self.held[slot]), tokens, True))
        result = self.shared.step(Step(rows=tuple(rows)))
        assert result.status == "done"
        for row in rows:
            self.held[row.slot] += row.tokens
        return result.outputs

    def fresh(self, slot: int) -> TokenLogprob | None:
        """What a model says to a slot's tokens that has seen nothing else."""
        self.alone.step(Step(trims=(Trim(0, 0),)))
        return prefill(self.alone, 0, [TokenPiece(tuple(self.held[slot]))]).logprob


@pytest.mark.parametrize(("seed", "swa_full"), [(1, False), (2, False), (3, True)])
def test_whatever_a_trim_keeps_is_right(load: Load, tiny: Path, seed: int, swa_full: bool) -> None:
    slots = Slots(load, tiny / "gemma3.gguf", seed, swa_full)
    for _ in range(ROUNDS):
        slots.trim()
        outputs = slots.grow()
        output = slots.random.choice(outputs)
        assert difference(output.tokens[0].logprob, slots.fresh(output.slot)) < NOISE
    assert slots.kept > 0
    assert slots.dropped > 0 or swa_full


@pytest.mark.parametrize(("seed", "swa_full"), [(1, False), (2, False), (3, True)])
def test_whatever_forks_and_checkpoints_keep_is_right(load: Load, tiny: Path, seed: int, swa_full: bool) -> None:
    slots = Slots(load, tiny / "gemma3.gguf", seed, swa_full)
    for _ in range(ROUNDS):
        for change in slots.random.sample([slots.trim, slots.save, slots.fork], 2):
            change()
        output = slots.random.choice(slots.grow())
        assert difference(output.tokens[0].logprob, slots.fresh(output.slot)) < NOISE
    assert slots.forked > 20
    assert slots.restored > 5


def test_a_window_that_lost_a_cell_in_the_middle_is_not_kept(load: Load, tiny: Path) -> None:
    executor: Executor = load(tiny / "gemma3.gguf", msgspec.structs.replace(SMALL, slots=1, step_tokens=64))
    ids = tuple(range(300, 364))
    for start in range(0, 512, 64):
        executor.step(Step(rows=(TokenRow(0, start, ids, False),)))
    assert executor.step(Step(trims=(Trim(0, 500),))).kept == {0: 500}
    assert executor.step(Step(trims=(Trim(0, 200),))).kept == {0: 0}


def difference(one: TokenLogprob | None, other: TokenLogprob | None) -> float:
    assert one is not None
    assert other is not None
    values = {token: value for token, _, value in other.top}
    return max(abs(value - values[token]) for token, _, value in one.top)
