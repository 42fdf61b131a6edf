"""What the training data promises: the split holds, references pass their checks, encoding is lossless."""

import random

import pytest

from training import knowledge, tasks
from training.data import encode
from training.draw import Draw, held_out
from training.evaluate import IMAGE_JOBS, JOBS, TEXT_JOBS, Item, items, same_behaviour
from training.pictures import SIZE, Scene, letterbox, render, scene
from training.tokenizer import Tokenizer, build


def prompts(job: str, draw: Draw, count: int) -> set[str]:
    """Last questions, or the code around the gap."""
    found = set()
    for _ in range(count):
        sample = tasks.sample(draw, job)[1]
        found.add(sample.turns[-1][0] if isinstance(sample, tasks.Chat) else f"{sample.prefix}<gap>{sample.suffix}")
    return found


CLOSED = {
    "hello",
    "memory",
    "memory_name",
    "log",
    "spell",
    "unknown",
}  # replies that carry no payload of their own


@pytest.mark.parametrize("job", [job for job in TEXT_JOBS if job not in CLOSED])
def test_no_held_out_question_is_ever_trained_on(job: str) -> None:
    trained = prompts(job, Draw(1), 3000)
    asked = {
        item.messages[-1]["content"] if item.messages else f"{item.prefix}<gap>{item.suffix}"
        for item in items(job, 100, 2)
    }
    assert not trained & asked


def test_names_and_cities_of_the_two_sides_do_not_meet() -> None:
    trained, held = Draw(1), Draw(2, held=True)
    assert not {trained.name() for _ in range(5000)} & {held.name() for _ in range(500)}
    assert not {trained.city() for _ in range(5000)} & {held.city() for _ in range(500)}


def test_sums_of_the_two_sides_do_not_meet() -> None:
    trained = {tasks.sums.add(draw)[0][1] for draw in [Draw(1)] for _ in range(5000)}
    held = {tasks.sums.add(draw)[0][1] for draw in [Draw(2, held=True)] for _ in range(500)}
    assert trained & held <= {tasks.sums.TOO_LARGE}


def test_a_held_out_fact_was_trained_in_other_words() -> None:
    known = set(dict(knowledge._questions(False)[0]).values())
    assert {reply for _, reply in knowledge._questions(True)[0]} <= known


def test_layouts_of_the_two_sides_do_not_meet() -> None:
    draw = Draw(3, held=True)
    scenes: list[Scene] = [scene(draw) for _ in range(50)]
    assert all(held_out("scene", made) for made in scenes)
    assert not any(held_out("scene", scene(trained)) for trained in [Draw(4)] for _ in range(50))


@pytest.mark.parametrize("job", JOBS)
def test_every_reference_passes_its_own_check(job: str) -> None:
    for item in items(job, 3, 5):
        assert item.check(item.reference), item


def test_items_are_the_same_for_the_same_seed() -> None:
    first, second = (list(items("extract", 5, 9)) for _ in range(2))
    assert first == second


def test_code_is_judged_by_what_it_does() -> None:
    item = Item("fim", "infill", "a + b", prefix="def add(a, b):\n    return ", suffix="\n", calls=("add(2, 3)",))
    assert item.check("b + a")
    assert not item.check("a - b")
    assert not item.check("a +")


def test_a_program_that_never_ends_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.SECONDS", 1.0)
    assert not same_behaviour("while True: pass", "x = 1", ())


@pytest.mark.parametrize("job", IMAGE_JOBS)
def test_picture_items_carry_their_pictures(job: str) -> None:
    item = next(items(job, 1, 1))
    assert len(item.images) == (2 if job.startswith("images_") else 1)


def test_pictures_come_in_many_shapes_and_become_square() -> None:
    draw = Draw(6)
    pictures = [render(scene(draw)) for _ in range(40)]
    assert len({picture.width > picture.height for picture in pictures}) == 2
    assert {letterbox(picture).size for picture in pictures} == {(SIZE, SIZE)}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_encoding_can_be_read_back(dropout: float) -> None:
    tokenizer, draw, rng = Tokenizer(build(["the", "word", "return"])), Draw(8), random.Random(8)
    for _ in range(200):
        _, sample = tasks.sample(draw)
        encoded = encode(tokenizer, sample, dropout, rng)
        text = tokenizer.decode(encoded.ids)
        parts = [sample.middle] if isinstance(sample, tasks.Code) else [reply for _, reply in sample.turns]
        assert all(part in text for part in parts)
        assert len(encoded.ids) == len(encoded.mask)


def test_no_capital_stands_in_a_longer_token() -> None:
    pieces = build(["paris", "the"])
    assert not [p.text for p in pieces if p.kind == "N" and len(p.text) > 1 and p.text != p.text.lower()]
