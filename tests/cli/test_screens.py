"""What is printed fits a terminal of 80 columns, and holds no colours where none are wanted."""

import re
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_mcp.cli.terminal.flow import Flow

CLI = ["-c", "from gemma_mcp.cli.main import main; main()"]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
terminals = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


def printed(environment: dict[str, str], *arguments: str, **changes: str) -> str:
    """All that a command sends to a terminal of 80 columns."""
    import pexpect

    child: Any = cast("Any", pexpect.spawn)(  # pyright: ignore[reportUnknownMemberType]
        sys.executable,
        [*CLI, *arguments],
        env=environment | {"TERM": "xterm-256color"} | changes,
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 80),
    )
    child.expect(pexpect.EOF)
    child.close()
    return child.before


def wide_lines(text: str) -> list[str]:
    """Lines that wrap, but for those of one word, such as a path, which stays whole."""
    lines = re.split(r"[\r\n]+", COLOUR.sub("", text))
    return [line for line in lines if len(line) > 79 and " " in line.strip()]


@terminals
def test_the_doctors_report_fits(environment: dict[str, str], tmp_path: Path) -> None:
    report = printed(environment, "doctor")
    assert "→ " in report
    assert COLOUR.search(report)
    assert wide_lines(report.replace(str(tmp_path), "/x").replace(sys.executable, "/python")) == []
    assert not COLOUR.search(printed(environment, "doctor", NO_COLOR="1"))


@terminals
def test_the_demos_live_progress_fits_the_line_that_it_writes_over(environment: dict[str, str]) -> None:
    shown = printed(environment, "demo", "--model", "echo")
    assert "0 of 8" in shown or "of 8 answers are right" in shown
    assert [line for line in wide_lines(shown) if not line.startswith("  ")] == []
    progress = [line for line in shown.split("\r") if line.startswith("   ") and not line.endswith("\n")]
    assert all(len(line) <= 79 for line in progress)


@terminals
def test_the_benchmarks_bar_and_its_table_fit(environment: dict[str, str]) -> None:
    shown = printed(environment, "bench", "prefill:8", "--model", "echo", "--engine", "ours", "--rounds", "1")
    assert "[....................]   0% starting engines" in shown
    assert "prompt tokens" in shown
    assert wide_lines(shown) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from(["word", " ", "  ", "\n", "longer-word", "漢字", "`x`", "a" * 30, "é"]), max_size=40))
def test_flowing_text_changes_blanks_to_line_ends_and_nothing_else(pieces: list[str]) -> None:
    whole, flow = "".join(pieces), Flow(20)
    shown = "".join([flow.feed(piece) for piece in pieces]) + flow.end()
    assert shown.split() == whole.split()
    assert [line for line in shown.split("\n") if len(line) > 20 and " " in line.strip() and line[:4].strip()] == []
    at_once = Flow(20)
    assert at_once.feed(whole) + at_once.end() == shown


def test_code_flows_as_it_is() -> None:
    code = "```py\nprint('a long line of code stays')\n```\n    indented code stays as well\n"
    flow = Flow(20)
    assert flow.feed(f"Some words that are too long:\n{code}and on") + flow.end() == (
        f"Some words that are\ntoo long:\n{code}and on"
    )
