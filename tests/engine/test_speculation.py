"""Guesses: where they come from, when they pay, and that nothing but the number of steps changes by them."""

import pytest
from echo_scheduling import InProcess, ask, finished, reply, scheduled

from gemma_mcp.engine.backend import TokenRow
from gemma_mcp.engine.pace import Pace
from gemma_mcp.engine.speculation import MOST_GUESSES, Guesser, guesses_worth
from gemma_mcp.types import Delta

COPIED = "def area(width, height):\n    return width * height\n" * 6


@pytest.fixture(autouse=True)
def cheap_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows cost as much as on a GPU: whether guesses pay must not hang on how busy this machine is."""

    def seconds(pace: Pace, rows: int) -> float:
        return 1 + 0.05 * (rows - 1)

    monkeypatch.setattr(Pace, "seconds", seconds)


def guessed(executor: InProcess) -> int:
    return sum(row.draft for step in executor.steps for row in step.rows if isinstance(row, TokenRow))


def decoding_steps(executor: InProcess) -> int:
    """Steps in which something was decoded."""
    rows = [[row for row in step.rows if isinstance(row, TokenRow)] for step in executor.steps]
    return sum(any(row.sample and len(row.tokens) == 1 + row.draft for row in step) for step in rows)


async def test_a_reply_that_copies_takes_a_fraction_of_the_steps():
    async with scheduled() as (scheduler, executor):
        text, events = await reply(scheduler, ask(COPIED))
        assert decoding_steps(executor) < len(COPIED) / 2
        assert scheduler.stats.right_tokens > len(COPIED) / 2
    assert text == COPIED
    assert finished(events).usage.completion_tokens == len(COPIED)
    assert sum(event.tokens for event in events if isinstance(event, Delta)) == len(COPIED)


async def test_nothing_is_guessed_when_that_is_off():
    async with scheduled(speculate=False) as (scheduler, executor):
        assert (await reply(scheduler, ask(COPIED)))[0] == COPIED
        assert guessed(executor) == 0


async def test_a_limit_is_kept_to_the_token():
    async with scheduled() as (scheduler, executor):
        for limit in range(100, 120):
            text, events = await reply(scheduler, ask(COPIED, max_tokens=limit))
            assert text == COPIED[:limit]
            assert finished(events).reason == "length"
        assert guessed(executor) > 0


async def test_a_stop_string_inside_right_guesses_never_leaks():
    async with scheduled() as (scheduler, executor):
        text, events = await reply(scheduler, ask(COPIED + "END" + COPIED, stop=("END",)))
        assert guessed(executor) > 0
    assert text == COPIED
    assert finished(events).reason == "stop"


async def test_guesses_come_with_their_logprobs():
    async with scheduled() as (scheduler, executor):
        _, events = await reply(scheduler, ask(COPIED, logprobs=1))
        assert guessed(executor) > 0
    pieces = [one.piece for event in events if isinstance(event, Delta) for one in event.logprobs]
    assert b"".join(pieces).decode() == COPIED


def test_what_followed_the_same_words_before_is_guessed():
    tokens = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    guesser = Guesser()
    assert guesser.guess(tokens, 3) == [4, 5, 6]
    assert guesser.guess([*tokens, 4], 2) == [5, 6]
    assert guesser.guess([*tokens, 4, 9], 2) == []


def test_the_latest_of_several_places_is_taken():
    assert Guesser().guess([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3], 1) == [5]


def test_words_that_never_came_before_give_no_guess():
    assert Guesser().guess([1, 2, 3, 4], 4) == []
    assert Guesser().guess([1, 2], 4) == []


@pytest.mark.parametrize(("right", "slope", "count"), [(0.97, 0.05, MOST_GUESSES), (0.9, 1.0, 0), (0.05, 0.3, 0)])
def test_as_many_are_guessed_as_the_machine_makes_worth_it(right: float, slope: float, count: int):
    assert guesses_worth(right, 1, lambda rows: 1 + slope * (rows - 1), MOST_GUESSES) == count


def test_between_the_extremes_a_few_are_guessed():
    few = guesses_worth(0.7, 1, lambda rows: 1 + 0.3 * (rows - 1), MOST_GUESSES)
    assert 0 < few < MOST_GUESSES


def test_guesses_that_turn_out_wrong_are_given_up_and_tried_again_later():
    guesser = Guesser()
    for _ in range(20):
        guesser.happened(4, 0)
    assert guesses_worth(guesser.right, 1, lambda rows: 1 + 0.3 * (rows - 1), MOST_GUESSES) == 0
    guesser.rest(100)
    assert not guesser.wanted(110)
    assert guesser.wanted(140)
    assert guesses_worth(guesser.right, 1, lambda rows: 1 + 0.3 * (rows - 1), MOST_GUESSES) > 0
