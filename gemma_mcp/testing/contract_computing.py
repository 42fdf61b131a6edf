"""Cases of the contract suite: prompts, replies, the KV cache, interrupting, closing."""

import threading
from collections.abc import Sequence

import pytest

from gemma_mcp.engine.backend import (
    Executor,
    Piece,
    Sampled,
    Step,
    TokenPiece,
    TokenRow,
    Trim,
)
from gemma_mcp.errors import GemmaError, StepFailedError
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
    rows_of,
    text_of,
)
from gemma_mcp.types import Control, Segment, Text, Tokens

__all__ = ["ComputingCases"]


class ComputingCases(ContractGround):
    """What a model computes, and what it keeps of it."""

    def test_what_the_model_says_of_itself_is_usable(self, executor: Executor) -> None:
        info = executor.info
        assert info.slots == self.options.slots
        assert 0 < info.context_length <= self.options.context_length
        assert info.step_tokens >= 1
        assert info.architecture
        assert info.runtime
        assert info.device

    def test_text_comes_back_from_its_tokens(self, executor: Executor) -> None:
        text = "Grüße, 世界 🙂\n\tdef f(x):  return x\r\n"
        assert executor.decode(ids_of(executor.encode([Text(text)]))).decode() == text

    def test_the_first_token_is_the_only_beginning_of_sequence(self, executor: Executor) -> None:
        bos = executor.info.bos
        once = ids_of(executor.encode([Control(f"{bos}{self.facts.marker}user\n"), Text("hello")]))
        none = ids_of(executor.encode([Control(f"{self.facts.marker}user\n"), Text("hello")]))
        assert once == none
        assert once.count(once[0]) == 1
        assert executor.decode(once[:1]) == b""

    def test_a_marker_that_a_user_typed_stays_text(self, executor: Executor) -> None:
        marker = self.facts.marker
        assert executor.decode(ids_of(executor.encode([Text(marker)]))).decode() == marker
        assert executor.decode(ids_of(executor.encode([Control(marker)]))) == b""

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udfff\ud800x", "\U0010ffff", "\ufeff"])
    def test_strange_characters_can_be_encoded(self, executor: Executor, text: str) -> None:
        ids = ids_of(executor.encode([Text(text)]))
        assert executor.decode(ids)

    def test_an_empty_prompt_has_no_text(self, executor: Executor) -> None:
        assert executor.decode(ids_of(executor.encode([Text("")]))) == b""

    def test_a_reply_s_tokens_go_in_as_they_came_out(self, executor: Executor) -> None:
        start = executor.encode(self.facts.prompts[0])
        text = "cats and dogs"
        ids = tuple(token for letter in text for token in self._text_ids(executor, letter))
        assert executor.decode(ids).decode() == text
        again = executor.encode([*self.facts.prompts[0], Tokens(ids, text), Control(self.facts.marker)])
        assert ids_of(again) == (*ids_of(start), *ids, *self._control_ids(executor, self.facts.marker))

    @pytest.mark.parametrize("ids", [(), (0,), (1,), (10**6,), (2**31 - 1,)])
    def test_tokens_that_spell_another_text_are_passed_over(self, executor: Executor, ids: tuple[int, ...]) -> None:
        expected = ids_of(executor.encode([*self.facts.prompts[0], Text("cats")]))
        assert ids_of(executor.encode([*self.facts.prompts[0], Tokens(ids, "cats")])) == expected

    def test_no_marker_comes_in_among_tokens(self, executor: Executor) -> None:
        letter, marker = self._text_ids(executor, "a"), self._control_ids(executor, self.facts.marker)
        assert executor.decode((*letter, *marker)) == b"a"
        given = Tokens((*letter, *marker), "a")
        assert ids_of(executor.encode([*self.facts.prompts[0], given])) == ids_of(
            executor.encode([*self.facts.prompts[0], Text("a")])
        )

    def _text_ids(self, executor: Executor, text: str) -> tuple[int, ...]:
        return self._beyond(executor, Text(text))

    def _control_ids(self, executor: Executor, text: str) -> tuple[int, ...]:
        return self._beyond(executor, Control(text))

    def _beyond(self, executor: Executor, segment: Segment) -> tuple[int, ...]:
        """The ids of a segment without the beginning-of-sequence token."""
        return ids_of(executor.encode([segment]))[len(ids_of(executor.encode([Text("")]))) :]

    def test_a_reply_ends_and_its_end_has_no_text(self, executor: Executor) -> None:
        tokens = reply(executor, executor.encode(self.facts.prompts[0]))
        assert [token.end for token in tokens] == [False] * (len(tokens) - 1) + [True]
        assert tokens[-1].piece == b""

    def test_pieces_are_the_bytes_of_the_tokens(self, executor: Executor) -> None:
        tokens = reply(executor, executor.encode(self.facts.prompts[0]))
        assert b"".join(token.piece for token in tokens) == executor.decode([token.token for token in tokens])

    def test_greedy_replies_are_the_same_each_time(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        assert_equal_output(reply(executor, pieces), reply(executor, pieces, slot=1))

    def test_different_prompts_get_different_replies(self, executor: Executor) -> None:
        one, other = (text_of(reply(executor, executor.encode(prompt))) for prompt in self.facts.prompts)
        assert one != other

    @pytest.mark.parametrize("chunk", [1, 3, 7])
    def test_a_prompt_in_chunks_gives_the_same_reply(self, executor: Executor, chunk: int) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        assert_equal_output(reply(executor, pieces, chunk=chunk), reply(executor, pieces))

    def test_a_reply_is_the_same_alone_and_in_a_batch(self, executor: Executor) -> None:
        prompts = [executor.encode(prompt) for prompt in self.facts.prompts]
        alone = [reply(executor, pieces) for pieces in prompts]
        empty(executor)
        firsts: dict[int, tuple[Sampled, int]] = {}
        for slot in (0, 1):
            executor.open(slot, GREEDY)
        rows = [row for slot in (0, 1) for row in rows_of(slot, prompts[slot])]
        for output in executor.step(Step(rows=tuple(rows))).outputs:
            firsts[output.slot] = output.tokens[0], length(prompts[output.slot])
        together = decode_on(executor, firsts)
        assert_equal_output(together[0], alone[0])
        assert_equal_output(together[1], alone[1])

    def test_a_prompt_beside_a_decoding_slot_disturbs_neither(self, executor: Executor) -> None:
        one, other = (executor.encode(prompt) for prompt in self.facts.prompts)
        alone = [reply(executor, one), reply(executor, other)]
        empty(executor)
        executor.open(0, GREEDY)
        executor.open(1, GREEDY)
        first = prefill(executor, 0, one)
        mixed = (TokenRow(0, length(one), (first.token,), True), *rows_of(1, other))
        results = {output.slot: output.tokens[0] for output in executor.step(Step(rows=mixed)).outputs}
        rest = decode_on(executor, {0: (results[0], length(one) + 1), 1: (results[1], length(other))}, 63)
        assert_equal_output([first, *rest[0]], alone[0])
        assert_equal_output(rest[1], alone[1][:63])

    def test_a_step_with_nothing_to_do_is_done(self, executor: Executor) -> None:
        result = executor.step(Step())
        assert (result.status, result.outputs, result.kept) == ("done", (), {})

    def test_a_trimmed_slot_goes_on_as_if_never_longer(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        kept = self._trim_and_check(executor, pieces, length(pieces) - 3)
        assert kept in (0, length(pieces) - 3)
        executor.open(0, GREEDY)
        first = prefill(executor, 0, pieces_after(pieces, kept), kept)
        assert_equal_output(decode_on(executor, {0: (first, length(pieces))})[0], expected)

    def test_a_trim_far_back_reports_what_it_kept_and_stays_right(self, executor: Executor) -> None:
        many = ids_of(executor.encode([Text(self.facts.filler * 200)]))[: executor.info.context_length - 80]
        pieces: list[Piece] = [TokenPiece(many[: len(many) // 4])]
        expected = reply(executor, pieces, limit=16)
        empty(executor)
        executor.open(0, GREEDY)
        prefill(executor, 0, [TokenPiece(many)])
        kept = self._trim_and_check(executor, pieces, len(many) // 4 - 1)
        first = prefill(executor, 0, pieces_after(pieces, kept), kept)
        assert_equal_output(decode_on(executor, {0: (first, length(pieces))}, 16)[0], expected)

    def _trim_and_check(self, executor: Executor, pieces: Sequence[Piece], keep: int) -> int:
        result = executor.step(Step(trims=(Trim(0, keep),)))
        assert set(result.kept) == {0}
        assert 0 <= result.kept[0] <= keep <= length(pieces)
        return result.kept[0]

    def test_a_slot_trimmed_to_nothing_is_empty(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        executor.open(0, GREEDY)
        prefill(executor, 0, pieces)
        assert executor.step(Step(trims=(Trim(0, 0),))).kept == {0: 0}
        prefill(executor, 0, pieces)

    def test_trimming_one_slot_leaves_the_others(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces, slot=0)
        empty(executor)
        executor.open(0, GREEDY)
        executor.open(1, GREEDY)
        first = prefill(executor, 0, pieces)
        prefill(executor, 1, pieces)
        executor.step(Step(trims=(Trim(1, 0),)))
        assert_equal_output(decode_on(executor, {0: (first, length(pieces))})[0], expected)

    def test_rows_that_leave_a_gap_are_refused(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        empty(executor)
        executor.open(0, GREEDY)
        with pytest.raises(StepFailedError):
            executor.step(Step(rows=(TokenRow(0, 5, ids_of(pieces), True),)))
        assert_equal_output(reply(executor, pieces), expected)

    def test_an_interrupt_before_a_step_costs_that_step_and_no_other(self, executor: Executor) -> None:
        ids = ids_of(executor.encode(self.facts.prompts[0]))
        expected = reply(executor, [TokenPiece(ids)])
        empty(executor)
        executor.open(0, GREEDY)
        executor.interrupt()
        step = Step(rows=(TokenRow(0, 0, ids, True),))
        result = executor.step(step)
        if result.status == "interrupted":
            assert (result.kept, result.outputs) == ({0: 0}, ())
            result = executor.step(step)
        first = result.outputs[0].tokens[0]
        assert_equal_output(decode_on(executor, {0: (first, len(ids))})[0], expected)

    def test_an_interrupted_step_says_what_is_valid(self, executor: Executor) -> None:
        ids = ids_of(executor.encode([Text(self.facts.filler * 60)]))[: executor.info.step_tokens]
        expected = reply(executor, [TokenPiece(ids)], limit=8)
        empty(executor)
        executor.open(0, GREEDY)
        done = threading.Event()
        hammer = threading.Thread(target=_hammer, args=(executor, done))
        hammer.start()
        try:
            result = executor.step(Step(rows=(TokenRow(0, 0, ids, True),)))
        finally:
            done.set()
            hammer.join()
        executor.step(Step())  # an interrupt may have come between steps; where it sticks, it ends here
        if result.status == "interrupted":
            assert result.outputs == ()
            kept = result.kept[0]
            assert 0 <= kept < len(ids)
            first = prefill(executor, 0, [TokenPiece(ids[kept:])], kept)
        else:  # it was over before the interrupt came
            first = result.outputs[0].tokens[0]
        assert_equal_output(decode_on(executor, {0: (first, len(ids))}, 8)[0], expected)

    def test_unknown_slots_are_refused(self, executor: Executor) -> None:
        beyond = executor.info.slots
        with pytest.raises(GemmaError):
            executor.open(beyond, GREEDY)
        with pytest.raises(GemmaError):
            executor.step(Step(trims=(Trim(beyond, 0),)))

    def test_closing_twice_is_harmless(self) -> None:
        executor = self.load(self.options)
        executor.close()
        executor.close()


def _hammer(executor: Executor, done: threading.Event) -> None:
    while not done.is_set():
        executor.interrupt()
