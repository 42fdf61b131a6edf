"""The contract suite: what every backend must do, ours or a stranger's. It needs pytest.

Use it by subclassing, in a module that pytest collects:

    class TestMyBackend(BackendContract):
        facts = Facts()
        expected = {"test_a_grammar_is_obeyed": never("it has no sampler", AssertionError)}

        @classmethod
        def load(cls, options: LoadOptions) -> Executor:
            return MyBackend().load(ModelSpec(name="tiny", format="gguf", path="tiny.gguf"), options, print)

A case that a backend cannot meet is named in `expected`, with the reason and the exception that it ends in. It must
then fail in just this way: a case that comes to pass is reported too.
"""

import io
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from PIL import Image

from gemma_mcp.engine.backend import (
    Executor,
    LoadOptions,
    MediaPiece,
    MediaRow,
    Piece,
    Sampled,
    SlotOptions,
    Step,
    TokenPiece,
    TokenRow,
    Trim,
)
from gemma_mcp.errors import GemmaError, InputRefusedError, RequestError, StepFailedError
from gemma_mcp.testing.generation import (
    GREEDY,
    assert_equal_output,
    decode_on,
    empty,
    length,
    prefill,
    reply,
    rows_of,
    text_of,
)
from gemma_mcp.types import Control, Grammar, Media, Sampling, Segment, Text

__all__ = ["BackendContract", "Expected", "Facts", "never", "notimpl", "notyet"]


@dataclass(frozen=True)
class Expected:
    """Why a backend fails a case, and with what."""

    kind: str
    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...]


def notimpl(reason: str, raises: type[BaseException] = AssertionError) -> Expected:
    """The runtime could do it; the backend does not use that."""
    return Expected("notimpl", reason, raises)


def notyet(reason: str, raises: type[BaseException] = AssertionError) -> Expected:
    """The runtime cannot do it in the version in use."""
    return Expected("notyet", reason, raises)


def never(reason: str, raises: type[BaseException] = AssertionError) -> Expected:
    """It makes no sense for this backend."""
    return Expected("never", reason, raises)


def turn(*parts: Segment) -> tuple[Segment, ...]:
    """A user turn in the markers of Gemma 1 to 3, up to where the reply begins."""
    return (Control("<bos><start_of_turn>user\n"), *parts, Control("<end_of_turn>\n<start_of_turn>model\n"))


def picture(colour: str) -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (112, 112), colour).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the suite must know of the model. Replies to `prompts` differ, and end by themselves within 64 tokens."""

    prompts: tuple[tuple[Segment, ...], tuple[Segment, ...]] = field(
        default_factory=lambda: (turn(Text("What is the capital of France?")), turn(Text("hello")))
    )
    filler: str = "the cat sat on the mat and the dog saw it. "
    marker: str = "<start_of_turn>"


class BackendContract(ABC):
    """The cases. One model is loaded for all of them."""

    facts: ClassVar[Facts] = Facts()
    expected: ClassVar[Mapping[str, Expected]] = {}
    options: ClassVar[LoadOptions] = LoadOptions(context_length=1024, slots=3, step_tokens=256, threads=1)

    @classmethod
    @abstractmethod
    def load(cls, options: LoadOptions) -> Executor:
        """Load the model under test."""

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls) -> Iterator[Executor]:
        """The executor under test, shared by the cases."""
        executor = cls.load(cls.options)
        yield executor
        executor.close()

    @pytest.fixture
    def executor(self, loaded: Executor) -> Executor:
        """The executor with every slot empty."""
        empty(loaded)
        return loaded

    @pytest.fixture(autouse=True)
    def _expect(self, request: pytest.FixtureRequest) -> None:
        function: object = request.function
        why = self.expected.get(getattr(function, "__name__", ""))
        if why is not None:
            mark = pytest.mark.xfail(reason=f"{why.kind}: {why.reason}", raises=why.raises, strict=True)
            request.applymarker(mark)

    # The prompt

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
        assert executor.decode(_ids(executor.encode([Text(text)]))).decode() == text

    def test_the_first_token_is_the_only_beginning_of_sequence(self, executor: Executor) -> None:
        bos = executor.info.bos
        once = _ids(executor.encode([Control(f"{bos}{self.facts.marker}user\n"), Text("hello")]))
        none = _ids(executor.encode([Control(f"{self.facts.marker}user\n"), Text("hello")]))
        assert once == none
        assert once.count(once[0]) == 1
        assert executor.decode(once[:1]) == b""

    def test_a_marker_that_a_user_typed_stays_text(self, executor: Executor) -> None:
        marker = self.facts.marker
        assert executor.decode(_ids(executor.encode([Text(marker)]))).decode() == marker
        assert executor.decode(_ids(executor.encode([Control(marker)]))) == b""

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udfff\ud800x", "\U0010ffff", "\ufeff"])
    def test_strange_characters_can_be_encoded(self, executor: Executor, text: str) -> None:
        ids = _ids(executor.encode([Text(text)]))
        assert executor.decode(ids)

    def test_an_empty_prompt_has_no_text(self, executor: Executor) -> None:
        assert executor.decode(_ids(executor.encode([Text("")]))) == b""

    # Replies

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

    # The cache

    def test_a_trimmed_slot_goes_on_as_if_never_longer(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        kept = self._trim_and_check(executor, pieces, length(pieces) - 3)
        assert kept in (0, length(pieces) - 3)
        executor.open(0, GREEDY)
        first = prefill(executor, 0, _after(pieces, kept), kept)
        assert_equal_output(decode_on(executor, {0: (first, length(pieces))})[0], expected)

    def test_a_trim_far_back_reports_what_it_kept_and_stays_right(self, executor: Executor) -> None:
        many = _ids(executor.encode([Text(self.facts.filler * 200)]))[: executor.info.context_length - 80]
        pieces: list[Piece] = [TokenPiece(many[: len(many) // 4])]
        expected = reply(executor, pieces, limit=16)
        empty(executor)
        executor.open(0, GREEDY)
        prefill(executor, 0, [TokenPiece(many)])
        kept = self._trim_and_check(executor, pieces, len(many) // 4 - 1)
        first = prefill(executor, 0, _after(pieces, kept), kept)
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
            executor.step(Step(rows=(TokenRow(0, 5, _ids(pieces), True),)))
        assert_equal_output(reply(executor, pieces), expected)

    # Interrupting

    def test_an_interrupt_without_a_step_does_nothing(self, executor: Executor) -> None:
        executor.interrupt()
        tokens = reply(executor, executor.encode(self.facts.prompts[0]))
        assert tokens[-1].end

    def test_an_interrupted_step_says_what_is_valid(self, executor: Executor) -> None:
        ids = _ids(executor.encode([Text(self.facts.filler * 60)]))[: executor.info.step_tokens]
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
        if result.status == "interrupted":
            assert result.outputs == ()
            kept = result.kept[0]
            assert 0 <= kept < len(ids)
            first = prefill(executor, 0, [TokenPiece(ids[kept:])], kept)
        else:  # it was over before the interrupt came
            first = result.outputs[0].tokens[0]
        assert_equal_output(decode_on(executor, {0: (first, len(ids))}, 8)[0], expected)

    # Sampling

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
        one, other = (_tokens(reply(executor, pieces, options, limit=24)) for _ in range(2))
        assert one == other

    def test_seeds_differ(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        hot = [Sampling(temperature=50.0, top_k=0, top_p=1.0, seed=seed) for seed in range(4)]
        replies = {_tokens(reply(executor, pieces, SlotOptions(sampling=sampling), limit=24)) for sampling in hot}
        assert len(replies) > 1

    def test_a_replayed_history_goes_on_as_the_reply_would_have(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        sampling = Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=3, repeat_penalty=1.1)
        whole = _tokens(reply(executor, pieces, SlotOptions(sampling=sampling), limit=12))
        for cut in range(1, len(whole)):
            executor.step(Step(trims=(Trim(0, 0),)))
            executor.open(0, SlotOptions(sampling=sampling, history=whole[:cut]))
            longer = [*pieces, TokenPiece(whole[:cut])]
            assert prefill(executor, 0, longer).token == whole[cut]

    def test_a_forbidden_token_is_not_chosen(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        favourite = reply(executor, pieces)[0].token
        sampling = Sampling(temperature=0, logit_bias=((favourite, -100.0),))
        assert favourite not in _tokens(reply(executor, pieces, SlotOptions(sampling=sampling)))

    def test_a_slot_that_was_not_opened_anew_keeps_its_sampling(self, executor: Executor) -> None:
        pieces = executor.encode(self.facts.prompts[0])
        expected = reply(executor, pieces)
        executor.step(Step(trims=(Trim(0, 0),)))
        first = prefill(executor, 0, pieces)
        assert_equal_output(decode_on(executor, {0: (first, length(pieces))})[0], expected)

    # Grammars

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

    @pytest.mark.parametrize("text", ["", 'root ::= "a', "root ::= nothing", 'other ::= "a"', "root ::= root"])
    def test_a_bad_grammar_is_refused(self, executor: Executor, text: str) -> None:
        with pytest.raises(RequestError):
            executor.open(0, SlotOptions(sampling=GREEDY.sampling, grammar=Grammar("gbnf", text)))

    @pytest.mark.parametrize("text", ["", "{", '{"type": "nonsense"}', '{"$ref": "https://example.com/a"}'])
    def test_a_bad_schema_is_refused(self, executor: Executor, text: str) -> None:
        with pytest.raises(RequestError):
            executor.open(0, SlotOptions(sampling=GREEDY.sampling, grammar=Grammar("json_schema", text)))

    # Images

    def test_images_are_known_by_their_content(self, executor: Executor) -> None:
        red, again, blue = (self._image(executor, picture(colour)) for colour in ("red", "red", "blue"))
        executor.release([red.media, again.media, blue.media])
        assert red.digest == again.digest != blue.digest
        assert red.media != again.media
        assert red.positions > 0

    def test_the_order_of_images_matters(self, executor: Executor) -> None:
        red, blue = Media(picture("red")), Media(picture("blue"))
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

    @pytest.mark.parametrize("data", [b"", b"not an image", picture("red")[:60]])
    def test_a_corrupt_image_is_refused(self, executor: Executor, data: bytes) -> None:
        with pytest.raises(InputRefusedError):
            executor.encode([Media(data)])

    def _image(self, executor: Executor, data: bytes) -> MediaPiece:
        return next(piece for piece in executor.encode([Media(data)]) if isinstance(piece, MediaPiece))

    # The end

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


def _ids(pieces: Sequence[Piece]) -> tuple[int, ...]:
    return tuple(token for piece in pieces if isinstance(piece, TokenPiece) for token in piece.ids)


def _tokens(sampled: Sequence[Sampled]) -> tuple[int, ...]:
    return tuple(token.token for token in sampled)


def _after(pieces: Sequence[Piece], start: int) -> list[Piece]:
    return [TokenPiece(_ids(pieces)[start:])]


def _hammer(executor: Executor, done: threading.Event) -> None:
    while not done.is_set():
        executor.interrupt()
