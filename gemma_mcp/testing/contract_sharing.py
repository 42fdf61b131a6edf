"""Cases of the contract suite: caches that begin as others do, and checkpoints.

A backend may keep nothing of a fork; then `info.forks` must say so. What it keeps must be right.
"""

from collections.abc import Sequence

import pytest

from gemma_mcp.engine.backend import (
    Executor,
    Fork,
    Piece,
    Sampled,
    Save,
    Spare,
    Step,
    StepResult,
    TokenPiece,
    TokenRow,
    Trim,
)
from gemma_mcp.errors import StepFailedError
from gemma_mcp.testing.contract_ground import ContractGround
from gemma_mcp.testing.generation import (
    GREEDY,
    assert_equal_output,
    decode_on,
    empty,
    ids_of,
    length,
    pieces_after,
    prefill,
    reply,
)
from gemma_mcp.types import Text

__all__ = ["SharingCases"]


class SharingCases(ContractGround):
    """What slots share, and what checkpoints bring back."""

    def test_a_fork_goes_on_as_if_it_had_computed_everything_itself(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        at = length(pieces) // 2
        kept = self._forked(executor, ids_of(pieces)[:at], at)
        first = prefill(executor, 1, pieces_after(pieces, kept), kept)
        assert_equal_output(decode_on(executor, {1: (first, length(pieces))})[1], expected)

    def test_a_fork_and_its_source_do_not_disturb_each_other(self, executor: Executor) -> None:
        prompts = [executor.encode(prompt) for prompt in self.facts.prompts]
        alone = [reply(executor, pieces) for pieces in prompts]
        both = zip(ids_of(prompts[0]), ids_of(prompts[1]), strict=False)
        shared = next(i for i, (one, other) in enumerate(both) if one != other)
        kept = self._forked(executor, ids_of(prompts[0])[:shared], shared)
        executor.open(0, GREEDY)
        firsts = {
            0: (prefill(executor, 0, pieces_after(prompts[0], shared), shared), length(prompts[0])),
            1: (prefill(executor, 1, pieces_after(prompts[1], kept), kept), length(prompts[1])),
        }
        together = decode_on(executor, firsts)
        assert_equal_output(together[0], alone[0])
        assert_equal_output(together[1], alone[1])

    def test_a_source_may_be_emptied_while_its_fork_goes_on(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        kept = self._forked(executor, ids_of(pieces)[:-1], length(pieces) - 1)
        executor.step(Step(trims=(Trim(0, 0),)))
        first = prefill(executor, 1, pieces_after(pieces, kept), kept)
        assert_equal_output(decode_on(executor, {1: (first, length(pieces))})[1], expected)

    def test_forks_of_a_long_prefix_decode_far_beyond_it(self, executor: Executor) -> None:
        ids = self._long(executor)[: executor.info.context_length // 2]
        limit = executor.info.context_length // 4
        expected = reply(executor, [TokenPiece(ids)], limit=limit)
        kept = self._forked(executor, ids[:-1], len(ids) - 1)
        result = executor.step(Step(forks=(Fork(0, 2, len(ids) - 1),)))
        firsts = {slot: self._finish(executor, slot, ids, keep) for slot, keep in {1: kept, 2: result.kept[2]}.items()}
        together = decode_on(executor, {slot: (first, len(ids)) for slot, first in firsts.items()}, limit)
        assert_equal_output(together[1], expected)
        assert_equal_output(together[2], expected)

    def test_a_fork_far_behind_its_source_reports_what_it_kept_and_stays_right(self, executor: Executor) -> None:
        ids = self._long(executor)
        pieces: list[Piece] = [TokenPiece(ids[: len(ids) // 4])]
        expected = reply(executor, pieces, limit=16)
        kept = self._forked(executor, ids, len(ids) // 4 - 1)
        first = self._finish(executor, 1, ids_of(pieces), kept)
        assert_equal_output(decode_on(executor, {1: (first, length(pieces))}, 16)[1], expected)

    @pytest.mark.parametrize("forked", [False, True])
    def test_a_checkpoint_brings_a_window_back(self, executor: Executor, forked: bool) -> None:
        ids = self._long(executor)
        at = len(ids) // 4
        expected = reply(executor, [TokenPiece(ids[: at + 1])], limit=16)
        self._saved(executor, ids, at)
        spare = Spare(7, at)
        change = Step(forks=(Fork(0, 1, at, spare),)) if forked else Step(trims=(Trim(0, at, spare),))
        slot = int(forked)
        kept = executor.step(change).kept[slot]
        assert kept == at or not executor.info.forks
        first = self._finish(executor, slot, ids[: at + 1], kept)
        assert_equal_output(decode_on(executor, {slot: (first, at + 1)}, 16)[slot], expected)

    def test_a_cache_is_cut_back_to_a_checkpoint_before_the_wanted_place(self, executor: Executor) -> None:
        ids = self._long(executor)
        at, wanted = len(ids) // 8, len(ids) // 4
        expected = reply(executor, [TokenPiece(ids[: wanted + 1])], limit=16)
        self._saved(executor, ids, at)
        kept = executor.step(Step(trims=(Trim(0, wanted, Spare(7, at)),))).kept[0]
        assert kept in (0, at, wanted)
        first = self._finish(executor, 0, ids[: wanted + 1], kept)
        assert_equal_output(decode_on(executor, {0: (first, wanted + 1)}, 16)[0], expected)

    def test_a_dropped_checkpoint_is_no_spare(self, executor: Executor) -> None:
        ids = self._long(executor)
        at = len(ids) // 4
        expected = reply(executor, [TokenPiece(ids[: at + 1])], limit=16)
        self._saved(executor, ids, at)
        kept = executor.step(Step(drops=(7,), trims=(Trim(0, at, Spare(7, at)),))).kept[0]
        assert kept in (0, at)
        first = self._finish(executor, 0, ids[: at + 1], kept)
        assert_equal_output(decode_on(executor, {0: (first, at + 1)}, 16)[0], expected)

    @pytest.mark.parametrize("fork", [Fork(0, 0, 1), Fork(0, 1, 4), Fork(0, 1, 0), Fork(0, 99, 1), Fork(99, 0, 1)])
    def test_forks_of_what_is_not_there_are_refused(self, executor: Executor, fork: Fork) -> None:
        executor.open(0, GREEDY)
        executor.step(Step(rows=(TokenRow(0, 0, ids_of(executor.encode(self.facts.prompts[0]))[:3], False),)))
        with pytest.raises(StepFailedError):
            executor.step(Step(forks=(fork,)))

    def _long(self, executor: Executor) -> tuple[int, ...]:
        """A prompt that is longer than any window that the suite expects."""
        ids = ids_of(executor.encode([Text(self.facts.filler * 200)]))
        return ids[: executor.info.context_length - 80]

    def _forked(self, executor: Executor, ids: Sequence[int], keep: int) -> int:
        """Compute `ids` in slot 0 and fork `keep` of them to slot 1, whose kept positions are given back."""
        empty(executor)
        executor.open(0, GREEDY)
        executor.open(1, GREEDY)
        executor.open(2, GREEDY)
        prefill(executor, 0, [TokenPiece(tuple(ids))])
        return self._kept(executor, executor.step(Step(forks=(Fork(0, 1, keep),))), keep, len(ids))

    def _kept(self, executor: Executor, result: StepResult, keep: int, held: int) -> int:
        assert set(result.kept) == {1}
        kept = result.kept[1]
        assert 0 <= kept <= keep
        if executor.info.forks and keep == held:
            assert kept == keep
        return kept

    def _saved(self, executor: Executor, ids: Sequence[int], at: int) -> None:
        """Compute `ids` in slot 0, with checkpoint 7 after the first `at`."""
        empty(executor)
        executor.open(0, GREEDY)
        executor.open(1, GREEDY)
        prefill(executor, 0, [TokenPiece(tuple(ids[:at]))])
        assert set(executor.step(Step(saves=(Save(0, 7),))).saved) == {7}
        prefill(executor, 0, [TokenPiece(tuple(ids[at:]))], at)

    def _finish(self, executor: Executor, slot: int, ids: Sequence[int], kept: int) -> Sampled:
        return prefill(executor, slot, [TokenPiece(tuple(ids[kept:]))], kept)
