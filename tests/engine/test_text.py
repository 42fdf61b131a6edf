"""What may be shown of a reply, and when."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gemma_mcp.engine.text import TextAssembler


def assembled(data: bytes, cuts: list[int], stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    """The text of `data` when it comes in pieces cut at these places."""
    assembler = TextAssembler(stop)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    text = "".join(assembler.push(data[a:b]) for a, b in itertools.pairwise(edges))
    return text + assembler.flush(), assembler.stopped


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_text_survives_being_cut_anywhere(text: str, cuts: list[int]):
    assert assembled(text.encode(), cuts) == (text, False)


@given(st.text("abc", max_size=40), st.lists(st.integers(0, 1000)), st.lists(st.text("abc", min_size=1), max_size=3))
def test_a_stop_string_never_leaks_wherever_the_pieces_end(text: str, cuts: list[int], stop: list[str]):
    said, stopped = assembled(text.encode(), cuts, tuple(stop))
    assert not any(s in said for s in stop)
    assert text.startswith(said)
    assert stopped == any(s in text for s in stop)
    if not stopped:
        assert said == text


def test_text_that_may_become_a_stop_string_waits():
    assembler = TextAssembler(("</end>",))
    assert assembler.push(b"one <") == "one "
    assert assembler.push(b"b>") == "<b>"
    assert assembler.push(b"</en") == ""
    assert assembler.flush() == "</en"


def test_a_character_is_shown_when_it_is_whole():
    assembler = TextAssembler()
    assert [assembler.push(bytes([byte])) for byte in "é€".encode()] == ["", "é", "", "", "€"]


def test_bytes_of_an_unfinished_character_are_dropped_at_the_end():
    assert assembled("ab€".encode()[:-1], [])[0] == "ab"


def test_nothing_follows_a_stop_string():
    assembler = TextAssembler(("!",))
    assert assembler.push(b"a!b") == "a"
    assert assembler.push(b"c") == ""
    assert assembler.flush() == ""


def test_an_empty_stop_string_stops_nothing():
    assert assembled(b"abc", [], ("",)) == ("abc", False)
