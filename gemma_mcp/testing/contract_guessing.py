"""Cases of the contract suite: rows with guesses. A backend whose `info.draft_tokens` is 0 never gets any."""

from collections.abc import Sequence

import pytest

from gemma_mcp.engine.backend import Executor, Piece, Sampled, SlotOptions, Step, TokenRow
from gemma_mcp.errors import StepFailedError
from gemma_mcp.testing.contract_ground import ContractGround
from gemma_mcp.testing.generation import GREEDY, assert_equal_output, decode_on, empty, length, prefill, reply
from gemma_mcp.types import Grammar, Sampling

__all__ = ["GuessingCases"]

WRONG = 5
"""A token id that no reply here holds: a control token in every vocabulary that is used."""


class GuessingCases(ContractGround):
    """Guesses never change what is said; those that are right save passes."""

    @pytest.fixture
    def guessing(self, executor: Executor) -> Executor:
        """The executor, if it takes guesses."""
        if not executor.info.draft_tokens:
            pytest.skip("takes no guesses")
        return executor

    def test_right_guesses_give_their_tokens_in_one_pass(self, guessing: Executor) -> None:
        pieces = guessing.encode(self.facts.prompts[0])
        expected = reply(guessing, pieces)
        first = self._begin(guessing, pieces, GREEDY)
        said = self._guess(guessing, first, length(pieces), [token.token for token in expected[1:4]])
        assert_equal_output([first, *said], expected[: 1 + len(said)])
        assert len(said) == min(4, len(expected) - 1)

    @pytest.mark.parametrize("right", [0, 1, 2])
    def test_a_wrong_guess_ends_its_row_and_leaves_nothing(self, guessing: Executor, right: int) -> None:
        pieces = guessing.encode(self.facts.prompts[0])
        expected = reply(guessing, pieces)
        first = self._begin(guessing, pieces, GREEDY)
        guesses = [token.token for token in expected[1 : 1 + right]]
        said = self._guess(guessing, first, length(pieces), [*guesses, WRONG, WRONG])
        assert len(said) == right + 1
        at = length(pieces) + len(said)
        rest = decode_on(guessing, {0: (said[-1], at)}, len(expected) - 1 - right)[0]
        assert_equal_output([first, *said[:-1], *rest], expected)

    def test_a_reply_ends_where_it_ends_whatever_is_guessed_after_it(self, guessing: Executor) -> None:
        pieces = guessing.encode(self.facts.prompts[0])
        expected = reply(guessing, pieces)
        if not expected[-1].end or len(expected) < 2:
            pytest.skip("the reply does not end by itself")
        said = self._driven(guessing, pieces, GREEDY, expected, len(expected))
        assert_equal_output(said, expected)

    @pytest.mark.parametrize("every", [2, 3])
    def test_a_drawn_reply_is_the_same_with_guesses(self, guessing: Executor, every: int) -> None:
        options = SlotOptions(sampling=Sampling(temperature=1.0, seed=11), logprobs=2)
        pieces = guessing.encode(self.facts.prompts[0])
        expected = reply(guessing, pieces, options, limit=32)
        said = self._driven(guessing, pieces, options, expected, 32, every)
        assert [token.token for token in said] == [token.token for token in expected]

    def test_a_grammar_is_obeyed_with_guesses(self, guessing: Executor) -> None:
        grammar = Grammar("gbnf", 'root ::= "abc" [x-z]+ "."')
        options = SlotOptions(sampling=Sampling(temperature=0), grammar=grammar, logprobs=2)
        pieces = guessing.encode(self.facts.prompts[0])
        expected = reply(guessing, pieces, options, limit=16)
        assert_equal_output(self._driven(guessing, pieces, options, expected, 16, 2), expected)

    def test_guesses_of_one_slot_do_not_disturb_another(self, guessing: Executor) -> None:
        prompts = [guessing.encode(prompt) for prompt in self.facts.prompts]
        expected = [reply(guessing, pieces, limit=16) for pieces in prompts]
        empty(guessing)
        firsts: list[Sampled] = []
        for slot in (0, 1):
            guessing.open(slot, GREEDY)
            firsts.append(prefill(guessing, slot, prompts[slot]))
        guesses = (expected[0][1].token, WRONG)
        rows = (
            TokenRow(0, length(prompts[0]), (firsts[0].token, *guesses), True, 2),
            TokenRow(1, length(prompts[1]), (firsts[1].token,), True),
        )
        said = {output.slot: output.tokens for output in guessing.step(Step(rows=rows)).outputs}
        assert_equal_output([firsts[0], *said[0]], expected[0][: 1 + len(said[0])])
        rest = decode_on(guessing, {1: (said[1][0], length(prompts[1]) + 1)}, 15)[1]
        assert_equal_output([firsts[1], *rest], expected[1])

    def test_rows_whose_guesses_make_no_sense_are_refused(self, guessing: Executor) -> None:
        pieces = guessing.encode(self.facts.prompts[0])
        many = (WRONG,) * (guessing.info.draft_tokens + 2)
        for tokens, sample, draft in (((7, 8), False, 1), ((7, 8), True, 2), (many, True, len(many) - 1)):
            first = self._begin(guessing, pieces, GREEDY)
            assert first.piece is not None
            with pytest.raises(StepFailedError):
                guessing.step(Step(rows=(TokenRow(0, length(pieces), tokens, sample, draft),)))

    def _begin(self, executor: Executor, pieces: Sequence[Piece], options: SlotOptions) -> Sampled:
        empty(executor)
        executor.open(0, options)
        return prefill(executor, 0, pieces)

    def _guess(self, executor: Executor, newest: Sampled, at: int, guesses: Sequence[int]) -> tuple[Sampled, ...]:
        row = TokenRow(0, at, (newest.token, *guesses), True, len(guesses))
        result = executor.step(Step(rows=(row,)))
        assert result.status == "done"
        return result.outputs[0].tokens

    def _driven(
        self,
        executor: Executor,
        pieces: Sequence[Piece],
        options: SlotOptions,
        expected: Sequence[Sampled],
        limit: int,
        every: int = 2,
    ) -> list[Sampled]:
        """A reply in which `every` tokens are guessed at a time, the last of them wrongly now and then."""
        said = [self._begin(executor, pieces, options)]
        while not said[-1].end and len(said) < limit:
            guesses = [token.token for token in expected[len(said) : len(said) + every]]
            if len(said) % 3 == 0 and guesses:
                guesses[-1] = WRONG
            guesses = guesses[: limit - len(said) - 1]
            at = length(pieces) + len(said) - 1
            said += (
                self._guess(executor, said[-1], at, guesses)
                if guesses
                else executor.step(Step(rows=(TokenRow(0, at, (said[-1].token,), True),))).outputs[0].tokens
            )
        return said
