"""What is left of an instructed model's reply when it completes code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_mcp.chat.instruct_code import instruct_messages, only_the_insertion
from gemma_mcp.types import Text


def request(prefix: str, suffix: str, language: str | None = "Python") -> str:
    (message,) = instruct_messages(prefix, suffix, language)
    (part,) = message.parts
    assert message.role == "user"
    assert isinstance(part, Text)
    return part.text


def test_the_prompt_shows_the_cursor_between_prefix_and_suffix() -> None:
    assert "def f(<CURSOR>):\n" in request("def f(", "):\n")
    assert "Complete this Python code" in request("a", "b")
    assert "Complete this code" in request("a", "b", None)


def test_code_that_holds_the_cursor_mark_gets_another_one() -> None:
    assert "x<CURSOR><CURSOR_HERE>y" in request("x<CURSOR>", "y")


@pytest.mark.parametrize(
    ("reply", "prefix", "suffix", "expected"),
    [
        # A word begun before the cursor is finished, not said twice.
        ("append(x)", "a", "", "ppend(x)"),
        ("items.append(x)", "items", "", ".append(x)"),
        # fences and prose
        ("```python\nreturn a + b\n```", "def add(a, b):\n    ", "\n", "return a + b"),
        ("Sure!\n```\nreturn 1\n```\nIt returns 1.", "def f():\n    ", "\n", "return 1"),
        ("```\nunclosed", "", "", "unclosed"),
        ("~~~py\nx\n~~~", "", "", "x"),
        ("`a + b`", "return ", "\n", "a + b"),
        ("Here is the code:\n\nreturn 1\n\nThis code returns one.\nAnd so on.", "def f():\n    ", "", "return 1"),
        ("Here's the missing part:\nreturn 1", "def f():\n    ", "", "return 1"),
        ("sure = here", "", "\n", "sure = here"),
        ("x<CURSOR>", "a = ", "", "x"),
        # repeated prefix
        ("def add(a, b):\n    return a + b", "def add(a, b):\n    ", "", "return a + b"),
        ("import os\n\ndef add(a, b):\n    return a", "import os\n\ndef add(a, b):\n    ", "", "return a"),
        ("return a + b", "def add(a, b):\n    return ", "", "a + b"),
        ("return a", "def f(a):\n    ret", "", "urn a"),
        ("    return a + b\n", "def add(a, b):\n    ", "", "return a + b"),
        ("def f():\n    x = 1\n    return x", "def f():\n    x = 1\n    ret", "", "urn x"),
        ("}", "if (a) {\n  b();\n}\n", "", "}"),
        # repeated suffix
        ("a, b):\n    return a", "def add(", "):\n    return a\n", "a, b"),
        ("a, b)", "foo(", ")", "a, b"),
        ("g(a)", "foo(", ")", "g(a)"),
        ("class", "x = ", "s = 1", "class"),
        ('hello"', 'x = "', '"\n', "hello"),
        (
            "total += x\n    return total",
            "def f(xs):\n    total = 0\n    for x in xs:\n        ",
            "\n    return total\n",
            "total += x",
        ),
        ("x = 2\n  y = 3\n  return y", "x = 1\n", "    y = 3\n    return y\n", "x = 2\n"),
        # indentation and line ends
        ("x = 1\nreturn x", "def f():\n    ", "\n", "x = 1\n    return x"),
        ("if n < 2:\n    return n\nreturn 3", "def f(n):\n    ", "", "if n < 2:\n        return n\n    return 3"),
        (
            "if n < 2:\n        return n\n    return 3",
            "def f(n):\n    ",
            "",
            "if n < 2:\n        return n\n    return 3",
        ),
        ("return 1\n\ndef g():\n    pass", "def f():\n    ", "", "return 1\n\ndef g():\n    pass"),
        ("return 1", "def f():\n", "\ndef g(): pass\n", "    return 1"),
        ("return 1", "class A:\n\tdef f(self):\n", "", "\t\treturn 1"),
        ("return 1", "def f():\n", "def g(): pass\n", "    return 1\n"),
        ("a\nb", "x\r\n", "\r\ny", "a\r\nb"),
        ("x = 1", "", "y = 2", "x = 1\n"),
        ("", "a", "b", ""),
        (" \n ", "a", "b", ""),
    ],
)
def test_only_what_goes_in_at_the_cursor_is_left(reply: str, prefix: str, suffix: str, expected: str) -> None:
    assert only_the_insertion(reply, prefix, suffix) == expected


LINES = st.lists(
    st.sampled_from(["x = 1", "    return x", "", "}", "def f(a):", "\tgo()", ")", "    y = f(x)"]), max_size=6
)


@given(LINES, LINES, LINES, st.integers(0, 4))
def test_the_last_whole_line_before_the_cursor_is_never_said_again(
    before: list[str], new: list[str], after: list[str], repeated: int
) -> None:
    prefix, suffix = "".join(line + "\n" for line in before), "".join(line + "\n" for line in after)
    reply = "\n".join([*before[len(before) - repeated :], *new])
    result = only_the_insertion(reply, prefix, suffix)
    last = next((line.strip() for line in reversed(before) if line.strip()), "")
    if any(char.isalnum() for char in last):
        assert result.strip().split("\n")[0].strip() != last


@given(st.text(), st.text(), st.text())
def test_any_reply_gives_some_text_without_an_error(reply: str, prefix: str, suffix: str) -> None:
    result = only_the_insertion(reply, prefix, suffix)
    assert result == "" or result.strip()


@given(
    st.from_regex(r"[a-z]{1,8} = [a-z]{1,8}", fullmatch=True),
    st.from_regex(r"(    )?[0-9]{1,8}\n", fullmatch=True),
    st.from_regex(r"\n[A-Z]{2,9}\n", fullmatch=True),
)
def test_a_good_reply_is_left_alone(reply: str, prefix: str, suffix: str) -> None:
    assert only_the_insertion(reply, prefix, suffix) == reply
    fenced = f"```python\n{reply}\n```"
    assert only_the_insertion(fenced, prefix, suffix) == reply
    assert only_the_insertion(prefix + reply + suffix, prefix, suffix) == reply


def test_a_reply_that_repeats_itself_for_ever_takes_no_stack() -> None:
    assert only_the_insertion("x = 1\n" * 5000, "x = 1\n", "") == ""
