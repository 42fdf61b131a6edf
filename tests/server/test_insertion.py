import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.insertion import LineEnds, is_prose, split_at, to_lf, without_tail


@pytest.mark.parametrize(
    ("line", "column", "before"),
    [
        (1, 1, ""),
        (1, 3, "ab"),
        (1, None, "ab"),
        (2, 1, "ab\r\n"),
        (2, 2, "ab\r\nü"),
        (2, None, "ab\r\nü😀"),
        (3, 1, "ab\r\nü😀\n"),
        (4, 1, "ab\r\nü😀\n\n"),
        (4, 2, "ab\r\nü😀\n\n "),
    ],
)
def test_a_cursor_splits_a_text(line: int, column: int | None, before: str) -> None:
    text = "ab\r\nü😀\n\n x"
    prefix, suffix = split_at("a.py", text, line, column)
    assert prefix == before
    assert prefix + suffix == text


def test_an_empty_last_line_has_a_cursor() -> None:
    assert split_at("a.py", "x\n", 2, 1) == ("x\n", "")
    assert split_at("a.py", "", 1, None) == ("", "")


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [(3, 1, "a.py: there is no line 3: the file has 2."), (1, 4, "a.py: line 1 has no column 4: its last is 3.")],
)
def test_a_cursor_outside_the_text_is_refused(line: int, column: int, reason: str) -> None:
    with pytest.raises(InputRefusedError) as caught:
        split_at("a.py", "ab\r\ncd", line, column)
    assert str(caught.value) == reason


@given(st.text(st.sampled_from("ab \r\n"), max_size=30))
def test_every_cursor_of_a_text_keeps_the_whole_of_it(text: str) -> None:
    for line in range(1, 5):
        try:
            prefix, suffix = split_at("x", text, line, None)
        except InputRefusedError:
            continue
        assert prefix + suffix == text


@pytest.mark.parametrize(("text", "crlf"), [("a\r\nb\r\nc\n", True), ("a\nb\n", False), ("a", False), ("a\r\nb", True)])
def test_line_ends_follow_the_majority(text: str, crlf: bool) -> None:
    ends = LineEnds.of(text)
    assert ends.crlf is crlf
    assert ends.restore("x\ny") == ("x\r\ny" if crlf else "x\ny")
    assert to_lf("a\r\nb\rc\n") == "a\nb\rc\n"


@pytest.mark.parametrize(
    "reply",
    ["Sure, I can help.", "I do not know that.", "Here is what is missing: x", "The missing code is", " I'm a toy"],
)
def test_talk_is_told_from_code(reply: str) -> None:
    assert is_prose(reply)
    assert not is_prose(f"{reply}\n```python\nx = 1\n```")
    assert not is_prose("surely = 1")


SUFFIX = "\n\nprint(add(1, 2))\n"


@pytest.mark.parametrize(
    ("code", "suffix", "wanted"),
    [
        ("return a + b", SUFFIX, "return a + b"),
        ("return a + b\n", SUFFIX, "return a + b"),
        ("return a + b\n\nprint(add(1, 2))", SUFFIX, "return a + b"),
        ("return a + b\nprint(add(1, 2))\n\nmore()", SUFFIX, "return a + b"),
        ("return a + b\n\nprint(ad", SUFFIX, "return a + b"),
        ("a, b)", ")\n", "a, b"),
        ("f(x)", ")\n", "f(x)"),
        ("(1, 2)", ")", "(1, 2)"),
        ("[1, 2]", "\n]\n", "[1, 2]"),
        ("a + b)", ")", "a + b"),
        ("}", "\n}\n", ""),
        ("int i = 0;\n", "}\n", "int i = 0;\n"),
        ("a", "bca", "a"),
        ("x = my_total", "total\n", "x = my_total"),
        ("x y  rest of it", "  rest of it", "x y"),
        ("    x\ny", "\n", "    x\ny"),
        ("kept\n", "", "kept\n"),
    ],
)
def test_what_stands_after_the_cursor_is_not_repeated(code: str, suffix: str, wanted: str) -> None:
    assert without_tail(code, suffix) == wanted


@given(st.text(st.sampled_from("ab(){} \n="), max_size=25), st.text(st.sampled_from("ab(){} \n="), max_size=25))
def test_cutting_only_ever_takes_away_from_the_end(code: str, suffix: str) -> None:
    assert code.startswith(without_tail(code, suffix))
