"""Cases of the contract suite: sampling, log-probabilities, grammars, images."""

import math

import pytest

from gemma_mcp.engine.backend import (
    Executor,
    MediaPiece,
    MediaRow,
    SlotOptions,
    Step,
    TokenPiece,
    Trim,
)
from gemma_mcp.errors import InputRefusedError, RequestError, StepFailedError
from gemma_mcp.testing.contract_ground import ContractGround, picture, turn
from gemma_mcp.testing.generation import (
    GREEDY,
    assert_equal_output,
    decode_on,
    length,
    prefill,
    reply,
    text_of,
    tokens_of,
)
from gemma_mcp.types import Grammar, Media, Sampling, Text

__all__ = ["ChoosingCases"]


class ChoosingCases(ContractGround):
    """How tokens are chosen, and images seen."""

    def test_logprobs_come_only_when_asked_for(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        assert all(token.logprob is None for token in reply(executor, pieces, SlotOptions(sampling=GREEDY.sampling)))

    def test_logprobs_are_those_of_a_distribution(self, executor: Executor) -> None:
        options = SlotOptions(sampling=GREEDY.sampling, logprobs=5)
        for token in reply(executor, executor.encode(self.facts.prompts[0]), options):
            assert token.logprob is not None
            values = [value for _, _, value in token.logprob.top]
            assert 1 <= len(values) <= 5
            assert values == sorted(values, reverse=True)
            assert math.fsum(map(math.exp, values)) <= 1 + 1e-6
            assert token.logprob.top[0][0] == token.token  # greedy
            assert token.logprob.logprob == values[0]

    def test_a_seed_makes_sampling_repeatable(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        options = SlotOptions(sampling=Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=7))
        one, other = (tokens_of(reply(executor, pieces, options, limit=24)) for _ in range(2))
        assert one == other

    def test_seeds_differ(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        hot = [Sampling(temperature=50.0, top_k=0, top_p=1.0, seed=seed) for seed in range(4)]
        replies = {tokens_of(reply(executor, pieces, SlotOptions(sampling=sampling), limit=24)) for sampling in hot}
        assert len(replies) > 1

    def test_a_replayed_history_goes_on_as_the_reply_would_have(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=3, repeat_penalty=1.1)
        whole = tokens_of(reply(executor, pieces, SlotOptions(sampling=sampling), limit=12))
        for cut in range(1, len(whole)):
            executor.step(Step(trims=(Trim(0, 0),)))
            executor.open(0, SlotOptions(sampling=sampling, history=whole[:cut]))
            longer = [*pieces, TokenPiece(whole[:cut])]
            assert prefill(executor, 0, longer).token == whole[cut]

    def test_a_forbidden_token_is_not_chosen(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        favourite = reply(executor, pieces)[0].token
        sampling = Sampling(temperature=0, logit_bias=((favourite, -100.0),))
        assert favourite not in tokens_of(reply(executor, pieces, SlotOptions(sampling=sampling)))

    def test_a_slot_that_was_not_opened_anew_keeps_its_sampling(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        executor.step(Step(trims=(Trim(0, 0),)))
        first = prefill(executor, 0, pieces)
        assert_equal_output(decode_on(executor, {0: (first, length(pieces))})[0], expected)

    @pytest.mark.parametrize("temperature", [0.0, 1.5])
    def test_a_grammar_is_obeyed(self, executor: Executor, temperature: float) -> None:
        sampling = Sampling(temperature=temperature, seed=1)
        options = SlotOptions(sampling=sampling, grammar=Grammar("gbnf", 'root ::= "yes" | "no way"'), logprobs=1)
        tokens = reply(executor, executor.encode(self.facts.prompts[0]), options)
        assert text_of(tokens) in ("yes", "no way")
        assert tokens[-1].end

    def test_a_json_schema_is_obeyed(self, executor: Executor) -> None:
        schema = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'
        options = SlotOptions(sampling=GREEDY.sampling, grammar=Grammar("json_schema", schema))
        text = text_of(reply(executor, executor.encode(self.facts.prompts[0]), options))
        assert text.replace(" ", "") in ('{"ok":true}', '{"ok":false}')

    @pytest.mark.parametrize("text", ['root ::= "a', "root ::= nothing", 'other ::= "a"', "root ::= root"])
    def test_a_bad_grammar_is_refused(self, executor: Executor, text: str) -> None:
        with pytest.raises(RequestError):
            executor.open(0, SlotOptions(sampling=GREEDY.sampling, grammar=Grammar("gbnf", text)))

    @pytest.mark.parametrize("grammar", [Grammar("gbnf", ""), Grammar("gbnf", " \n"), Grammar("json_schema", "")])
    def test_an_empty_grammar_is_refused(self, executor: Executor, grammar: Grammar) -> None:
        with pytest.raises(RequestError):
            executor.open(0, SlotOptions(sampling=GREEDY.sampling, grammar=grammar))

    @pytest.mark.parametrize("text", ["{", '{"type": "nonsense"}', '{"$ref": "https://example.com/a"}'])
    def test_a_bad_schema_is_refused(self, executor: Executor, text: str) -> None:
        with pytest.raises(RequestError):
            executor.open(0, SlotOptions(sampling=GREEDY.sampling, grammar=Grammar("json_schema", text)))

    def test_images_are_known_by_their_content(self, executor: Executor) -> None:
        red, again, blue = (self._image(executor, picture(colour)) for colour in ("red", "red", "blue"))
        executor.release([red.media, again.media, blue.media])
        assert red.digest == again.digest != blue.digest
        assert red.media != again.media
        assert red.positions > 0

    def test_the_order_of_images_matters(self, executor: Executor) -> None:
        red, blue = Media(picture("red")), Media(picture("blue", 84))
        prompts = [executor.encode(turn(*order, Text("Describe."))) for order in ((red, blue), (blue, red))]
        options = SlotOptions(sampling=GREEDY.sampling, logprobs=5)
        one, other = (reply(executor, pieces, options) for pieces in prompts)
        executor.release([piece.media for pieces in prompts for piece in pieces if isinstance(piece, MediaPiece)])
        assert [token.logprob for token in one] != [token.logprob for token in other]

    def test_a_released_image_cannot_be_computed(self, executor: Executor) -> None:
        image = self._image(executor, picture("red"))
        executor.release([image.media])
        executor.release([image.media, 10**9])  # again, and one that never was
        with pytest.raises(StepFailedError):
            executor.step(Step(rows=(MediaRow(0, 0, image.media),)))

    @pytest.mark.parametrize("data", [b"", b"not an image", b"GIF89a" + bytes(100)])
    def test_what_is_no_image_is_refused(self, executor: Executor, data: bytes) -> None:
        with pytest.raises(InputRefusedError):
            executor.encode([Media(data)])

    def test_a_truncated_image_is_refused(self, executor: Executor) -> None:
        with pytest.raises(InputRefusedError):
            executor.encode([Media(picture("red")[:60])])

    def _image(self, executor: Executor, data: bytes) -> MediaPiece:
        return next(piece for piece in executor.encode([Media(data)]) if isinstance(piece, MediaPiece))
