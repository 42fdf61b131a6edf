"""Steps on llama.cpp: what is refused before it could abort the process, and what a full cache means."""

import threading
from pathlib import Path

import msgspec
import pytest
from llamacpp_models import SMALL, Load

from gemma_mcp.engine.backend import (
    Executor,
    MediaPiece,
    MediaRow,
    Row,
    SlotOptions,
    Step,
    StepResult,
    TokenPiece,
    TokenRow,
    Trim,
)
from gemma_mcp.errors import RequestError, StepFailedError
from gemma_mcp.testing.contract_ground import picture, turn
from gemma_mcp.testing.generation import GREEDY, ids_of, length, prefill, reply, rows_of
from gemma_mcp.types import Media, Text

FILLER = "the cat and the dog and the image of it "


@pytest.fixture
def executor(load: Load, tiny: Path) -> Executor:
    """The tiny model with eyes; slot 0 is open."""
    executor = load(tiny / "gemma3.gguf", SMALL, projector=tiny / "mmproj.gguf")
    executor.open(0, GREEDY)
    return executor


def tokens(executor: Executor, count: int) -> tuple[int, ...]:
    return ids_of(executor.encode([Text(FILLER * count)]))[:count]


def test_a_step_beyond_its_tokens_is_refused_and_the_model_lives(executor: Executor) -> None:
    long = tokens(executor, executor.info.step_tokens + 1)
    with pytest.raises(StepFailedError, match="more than 256"):
        executor.step(Step(rows=(TokenRow(0, 0, long, True),)))
    assert executor.step(Step(rows=(TokenRow(0, 0, long[:-1], True),))).status == "done"


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((TokenRow(0, 0, (), True),), "no tokens"),
        ((TokenRow(0, 0, (5,), False), TokenRow(0, 1, (5,), True)), "two token rows"),
        ((TokenRow(1, 0, (5,), True),), "not opened"),
        ((TokenRow(2, 0, (5,), False),), "no slot 2"),
        ((TokenRow(-1, 0, (5,), False),), "no slot -1"),
        ((TokenRow(0, 3, (5,), False),), "holds 0 positions"),
        ((TokenRow(0, 0, (10**6,), False),), "code -1"),
        ((MediaRow(0, 2, 1),), "holds 0 positions"),
        ((MediaRow(0, 0, 99),), "no image 99"),
    ],
)
def test_rows_that_make_no_sense_are_refused(executor: Executor, rows: tuple[Row, ...], why: str) -> None:
    with pytest.raises(StepFailedError, match=why):
        executor.step(Step(rows=rows))
    assert len(reply(executor, executor.encode([Text("hello")]), limit=3)) == 3


def test_a_full_cache_says_so_and_what_is_valid(load: Load, tiny: Path) -> None:
    executor = load(tiny / "gemma3.gguf", msgspec.structs.replace(SMALL, context_length=256))
    ids = tokens(executor, 256)
    for slot, start in ((0, 0), (0, 200), (1, 0)):  # 600 positions would need more than the 512 cells
        assert executor.step(Step(rows=(TokenRow(slot, start, ids[: 200 - 100 * slot], False),))).status == "done"
    full = executor.step(Step(rows=(TokenRow(1, 100, ids[:200], False),)))
    assert (full.status, full.kept, full.outputs) == ("no_room", {1: 100}, ())
    executor.open(1, GREEDY)
    room = executor.step(Step(trims=(Trim(0, 0),), rows=(TokenRow(1, 100, ids[:200], True),)))
    assert (room.status, room.kept, len(room.outputs)) == ("done", {0: 0}, 1)


def test_an_interrupt_ends_a_long_prefill_and_keeps_nothing_of_it(load: Load, tiny: Path) -> None:
    executor = load(tiny / "gemma3.gguf", msgspec.structs.replace(SMALL, step_tokens=4096, context_length=8192))
    ids = tokens(executor, 4000)
    assert executor.step(Step(rows=(TokenRow(0, 0, ids[:10], False),))).status == "done"
    result = _interrupted(executor, Step(rows=(TokenRow(0, 10, ids[10:], False), TokenRow(1, 0, ids[:5], False))))
    assert (result.status, result.outputs, result.kept) == ("interrupted", (), {0: 10, 1: 0})
    assert executor.step(Step(rows=(TokenRow(0, 10, ids[10:20], False),))).status == "done"


def test_an_interrupt_ends_a_step_before_its_next_image(executor: Executor) -> None:
    piece = _images(executor, 1)[0]
    rows = tuple(MediaRow(0, index * piece.positions, piece.media) for index in range(50))
    result = _interrupted(executor, Step(rows=rows))
    assert result.status == "interrupted"
    assert result.kept[0] % piece.positions == 0
    assert executor.step(Step(rows=(MediaRow(0, result.kept[0], piece.media),))).status == "done"


def _interrupted(executor: Executor, step: Step) -> StepResult:
    done = threading.Event()

    def hammer() -> None:
        while not done.is_set():
            executor.interrupt()

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        return executor.step(step)
    finally:
        done.set()
        thread.join()
        executor.step(Step())  # takes an interrupt that came after the step


def test_a_decoding_slot_beside_an_image_chooses_what_it_would_alone(executor: Executor) -> None:
    pieces = executor.encode([Text("hello world")])
    options = SlotOptions(sampling=GREEDY.sampling, logprobs=3)
    alone = reply(executor, pieces, options, limit=2)
    executor.step(Step(trims=(Trim(0, 0),)))
    executor.open(0, options)
    first = prefill(executor, 0, pieces)
    rows = (TokenRow(0, length(pieces), (first.token,), True), MediaRow(1, 0, _images(executor, 1)[0].media))
    result = executor.step(Step(rows=rows))
    assert [token.token for token in result.outputs[0].tokens] == [alone[1].token]
    assert result.outputs[0].tokens[0].logprob is not None
    assert alone[1].logprob is not None
    assert result.outputs[0].tokens[0].logprob.logprob == pytest.approx(alone[1].logprob.logprob, abs=0.01)


def test_tokens_and_image_of_one_slot_may_share_a_step(executor: Executor) -> None:
    pieces = executor.encode(turn(Media(picture("red")), Text("Describe.")))
    assert [type(piece) for piece in pieces] == [TokenPiece, MediaPiece, TokenPiece]
    apart = reply(executor, pieces, limit=4)
    executor.step(Step(trims=(Trim(0, 0),)))
    executor.open(0, GREEDY)
    start = length(pieces[:2])
    assert executor.step(Step(rows=tuple(rows_of(0, pieces[:2], sample=False)))).status == "done"
    together = executor.step(Step(rows=tuple(rows_of(0, pieces[2:], start)))).outputs[0].tokens[0]
    assert together.token == apart[0].token


def test_an_image_without_room_is_reported(load: Load, tiny: Path) -> None:
    options = msgspec.structs.replace(SMALL, context_length=256, slots=1)
    executor = load(tiny / "gemma3.gguf", options, projector=tiny / "mmproj.gguf")
    ids = tokens(executor, 256)
    assert executor.step(Step(rows=(TokenRow(0, 0, ids[:254], False),))).status == "done"
    result = executor.step(Step(rows=(MediaRow(0, 254, _images(executor, 1)[0].media),)))
    assert (result.status, result.kept) == ("no_room", {0: 254})


def test_images_can_be_prepared_while_a_step_runs(executor: Executor) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def prepare() -> None:
        try:
            while not done.is_set():
                executor.release([piece.media for piece in _images(executor, 2)])
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=prepare)
    thread.start()
    try:
        pieces = executor.encode(turn(Media(picture("red")), Text("Describe.")))
        replies = [tuple(token.token for token in reply(executor, pieces, limit=8)) for _ in range(10)]
    finally:
        done.set()
        thread.join()
    assert failures == []
    assert len(set(replies)) == 1


def test_a_closed_model_refuses_everything(executor: Executor) -> None:
    executor.close()
    with pytest.raises(StepFailedError, match="closed"):
        executor.step(Step())
    with pytest.raises(StepFailedError, match="closed"):
        executor.encode([Text("hello")])
    with pytest.raises(StepFailedError, match="closed"):
        executor.open(0, GREEDY)
    executor.interrupt()


def test_a_slot_beyond_the_last_cannot_be_opened(executor: Executor) -> None:
    with pytest.raises(RequestError, match="no slot 2"):
        executor.open(2, GREEDY)


def _images(executor: Executor, count: int) -> list[MediaPiece]:
    pieces = executor.encode([Media(picture("blue"))] * count)
    return [piece for piece in pieces if isinstance(piece, MediaPiece)]
