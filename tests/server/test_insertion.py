import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.insertion import CURSOR, LineEnds, instruction, split_at, to_lf, without_fence, without_repeats


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
    ("reply", "code"),
    [
        ("    return 1", "    return 1"),
        ("```python\n    return 1\n```", "    return 1"),
        ("```\nx\n\ny\n```\nThat is it.", "x\n\ny"),
        ("Sure! Here it is:\n\n```py\nx = 1\n```\n", "x = 1"),
        ("````md\n```py\nx\n```\n````", "```py\nx\n```"),
        ("~~~\nx\n~~~", "x"),
        ("```python\ncut off", "cut off"),
        ("```python\n```", ""),
        (f"a{CURSOR}b", "ab"),
        ("surely = 1", "surely = 1"),
        ("", ""),
    ],
)
def test_code_is_taken_out_of_a_reply(reply: str, code: str) -> None:
    assert without_fence(reply) == code


@pytest.mark.parametrize(
    "reply",
    ["Sure, I can help.", "I do not know that.", "Here is what is missing: x", "The missing code is x", " I'm a toy"],
)
def test_prose_is_no_code(reply: str) -> None:
    assert without_fence(reply) is None


def test_a_fence_is_longer_than_those_in_the_text() -> None:
    text = instruction("````py\n", "\n````", "markdown")
    assert "`````markdown\n````py\n<CURSOR>\n````\n`````" in text


PREFIX = "def add(a, b):\n    "
SUFFIX = "\n\nprint(add(1, 2))\n"


@pytest.mark.parametrize(
    ("code", "prefix", "suffix", "wanted"),
    [
        ("return a + b", PREFIX, SUFFIX, "return a + b"),
        ("return a + b\n", PREFIX, SUFFIX, "return a + b"),
        ("    return a + b", PREFIX, SUFFIX, "return a + b"),
        ("def add(a, b):\n    return a + b", PREFIX, SUFFIX, "return a + b"),
        ("def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n", PREFIX, SUFFIX, "return a + b"),
        ("return a + b\n\nprint(add(1, 2))", PREFIX, SUFFIX, "return a + b"),
        ("return a + b\nprint(add(1, 2))\n\nmore()", PREFIX, SUFFIX, "return a + b"),
        ("return a + b\n\nprint(ad", PREFIX, SUFFIX, "return a + b"),
        ("x = 5", "y = 1\nx = ", "\n", "5"),
        ("5", "y = 1\nx = ", "\n", "5"),
        ("return x", "def f(x):\n    return ", "", "x"),
        ("append(x)", "a", "", "append(x)"),
        ("a, b)", "add(", ")\n", "a, b"),
        ("f(x)", "add(", ")\n", "f(x)"),
        ("(1, 2)", "add(", ")", "(1, 2)"),
        ("[1, 2]", "x = ", "\n]\n", "[1, 2]"),
        ("a + b)", "print(", ")", "a + b"),
        ("}", "function f() {\n  return 1;\n", "\n}\n", ""),
        ("int i = 0;\n", "void f() {\n", "}\n", "int i = 0;\n"),
        ("a", "x = ", "bca", "a"),
    ],
)
def test_nothing_is_repeated(code: str, prefix: str, suffix: str, wanted: str) -> None:
    assert without_repeats(code, prefix, suffix, instructed=True) == wanted


@pytest.mark.parametrize(
    ("code", "prefix", "wanted"),
    [
        ("if a:\n    return 1\nreturn 2", PREFIX, "if a:\n        return 1\n    return 2"),
        ("    if a:\n        return 1\n    return 2", PREFIX, "if a:\n        return 1\n    return 2"),
        ("if a:\n        return 1\n    return 2", PREFIX, "if a:\n        return 1\n    return 2"),
        ("if a:\n\n    return 1", "\t", "if a:\n\n\t    return 1"),
        ("x = [\n    1,\n]", "    y = 1; ", "x = [\n    1,\n]"),
    ],
)
def test_indentation_is_kept_or_restored(code: str, prefix: str, wanted: str) -> None:
    assert without_repeats(code, prefix, "\n", instructed=True) == wanted


def test_a_model_that_fills_in_keeps_its_own_indentation() -> None:
    assert without_repeats("    x\ny", "    ", "\n", instructed=False) == "    x\ny"
    assert without_repeats("return a + b\n\nprint(add(1, 2))", PREFIX, SUFFIX, instructed=False) == "return a + b"


def test_what_is_inserted_makes_the_whole_valid() -> None:
    reply = "Here you go:\n```python\ndef add(a, b):\n    total = a + b\n    return total\n\nprint(add(1, 2))\n```"
    code = without_fence(reply)
    assert code is not None
    ast.parse(PREFIX + without_repeats(code, PREFIX, SUFFIX, instructed=True) + SUFFIX)


@given(st.text(st.sampled_from("ab(){} \n="), max_size=25), st.text(st.sampled_from("ab(){} \n="), max_size=25))
def test_cutting_only_ever_takes_away_from_the_ends(code: str, suffix: str) -> None:
    kept = without_repeats(code, "", suffix, instructed=False)
    assert code.startswith(kept)
