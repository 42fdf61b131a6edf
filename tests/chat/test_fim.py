"""Fill-in-the-middle prompts."""

from gemma_mcp.chat.fim import fim_segments
from gemma_mcp.types import Control, FimTokens, Text

MARKS = FimTokens(prefix="<|fim_prefix|>", suffix="<|fim_suffix|>", middle="<|fim_middle|>")


def test_code_stands_between_the_markers_without_any_space() -> None:
    assert fim_segments(MARKS, "def f(", "):\n") == (
        Control("<|fim_prefix|>"),
        Text("def f("),
        Control("<|fim_suffix|>"),
        Text("):\n"),
        Control("<|fim_middle|>"),
    )


def test_markers_in_the_code_stay_text() -> None:
    assert fim_segments(MARKS, "<|fim_middle|>", "")[1] == Text("<|fim_middle|>")


def test_nothing_before_the_cursor_leaves_out_an_empty_text() -> None:
    assert fim_segments(MARKS, "", "x") == (
        Control("<|fim_prefix|>"),
        Control("<|fim_suffix|>"),
        Text("x"),
        Control("<|fim_middle|>"),
    )


def test_windows_line_ends_become_unix_ones() -> None:
    segments = fim_segments(MARKS, "a\r\nb\r\n", "\r\nc")
    assert (segments[1], segments[3]) == (Text("a\nb\n"), Text("\nc"))
