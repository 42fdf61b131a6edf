import json
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gemma_mcp.bench.results import read_results, write_results

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def measured(gemma_mcp: Run, tmp_path: Path) -> Path:
    """The figures of one round with the echo model."""
    path = tmp_path / "old.json"
    done = gemma_mcp("bench", "prefill:64", "--model", "echo", "--engine", "ours", "--rounds", "1", "--json", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "prefill: 64 prompt tokens, 1 out" in done.stdout.splitlines()
    return path


def slower(path: Path, factor: float) -> Path:
    """The same figures, with times that are that much longer."""
    old = read_results(path)
    series = tuple(
        msgspec.structs.replace(one, values=tuple(value * factor for value in one.values)) if one.unit == "s" else one
        for one in old.series
    )
    new = path.with_name("new.json")
    write_results(new, msgspec.structs.replace(old, series=series))
    return new


def test_figures_are_kept_compared_and_drawn(gemma_mcp: Run, measured: Path, tmp_path: Path) -> None:
    assert json.loads(measured.read_text(encoding="utf-8"))["series"][0]["scenario"] == "prefill:prompt=64"
    same = gemma_mcp("bench", "--with", str(measured), "--compare", str(measured), "--chart", str(tmp_path / "a.svg"))
    assert (same.returncode, same.stderr) == (0, "")
    assert same.stdout.splitlines()[-1] == "No figure is worse than before, beyond the noise."
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")

    worse = gemma_mcp("bench", "--with", str(slower(measured, 1.5)), "--compare", str(measured))
    assert worse.returncode == 1
    (line,) = worse.stderr.splitlines()
    assert line.startswith("gemma-mcp: prefill:prompt=64, ours: TTFT rose from ")
    assert line.endswith("(+50%), more than the noise of 3%.")


def test_a_file_to_compare_with_is_read_before_anything_is_measured(gemma_mcp: Run, tmp_path: Path) -> None:
    done = gemma_mcp("bench", "--compare", str(tmp_path / "none.json"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"gemma-mcp: {tmp_path / 'none.json'}: it cannot be read")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--no-own"], "--no-own goes with --peer"),
        (["--peer", "localhost:8080"], "is not of the form URL or NAME=URL"),
        (["--peer", "ours=http://localhost:8080"], "the name 'ours' is taken"),
        (["--synthetic", "gemma-3-1b", "--model", "starter"], "are both given"),
        (["--soak", "1", "map"], "--soak goes with no scenario"),
        (["--peer", "http://localhost:8080", "--peer-key", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
    ],
)
def test_options_that_make_no_sense_are_refused(gemma_mcp: Run, arguments: list[str], complaint: str) -> None:
    done = gemma_mcp("bench", *arguments)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())
