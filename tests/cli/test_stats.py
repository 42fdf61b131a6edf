import json
import subprocess
from collections.abc import Callable
from datetime import date, timedelta

import pytest

from gemma_mcp.places import Places
from gemma_mcp.server.savings import Figures, SavingsStore, savings_path

Run = Callable[..., subprocess.CompletedProcess[str]]
ONE = Figures(sessions=1, calls=2, unknown=1, file_tokens=1000, result_tokens=30, schema_tokens=20)


@pytest.fixture
def store(environment: dict[str, str]) -> SavingsStore:
    return SavingsStore(savings_path(Places.find(environment)))


def test_without_any_figures_all_are_0(gemma_mcp: Run, store: SavingsStore) -> None:
    done = gemma_mcp("stats")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"Your file: {store.path} (nothing in it yet)"
    assert lines[2].split() == ["total", "0", "0", "0", "0", "0", "0"]
    assert not store.path.exists()


def test_days_and_total_stand_in_a_table_that_fits_80_columns(gemma_mcp: Run, store: SavingsStore) -> None:
    huge = Figures(1, 99_999, 9_999, 999_998_999, 9_999_999, 9_999_999)
    store.add(ONE, "2026-01-01")
    store.add(huge, "2026-01-02")
    lines = gemma_mcp("stats").stdout.splitlines()
    assert lines[1].split() == ["day", "calls", "unknown", "files", "results", "tools", "saved"]
    assert lines[2].split() == ["2026-01-01", "2", "1", "1,000", "-30", "-20", "950"]
    total = huge + ONE
    assert lines[4].split()[0] == "total"
    assert lines[4].split()[-1] == f"{total.saved:,}"
    assert all(len(line) <= 80 for line in lines[1:])


def test_older_days_are_added_up(gemma_mcp: Run, store: SavingsStore) -> None:
    for number in range(5):
        store.add(ONE, (date(2026, 1, 1) + timedelta(days=number)).isoformat())
    lines = gemma_mcp("stats", "--days", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["earlier", "2026-01-04", "2026-01-05", "total"]
    assert lines[2].split()[1] == "6"
    assert lines[5].split()[1] == "10"


def test_programs_can_read_it(gemma_mcp: Run, store: SavingsStore) -> None:
    store.add(ONE, "2026-01-01")
    told = json.loads(gemma_mcp("stats", "--json").stdout)
    figures = {
        "sessions": 1,
        "calls": 2,
        "unknown": 1,
        "file_tokens": 1000,
        "result_tokens": 30,
        "schema_tokens": 20,
        "saved": 950,
    }
    assert told == {"file": str(store.path), "total": figures, "days": [{"day": "2026-01-01", **figures}]}


def test_a_reset_forgets_everything(gemma_mcp: Run, store: SavingsStore) -> None:
    store.add(ONE, "2026-01-01")
    done = gemma_mcp("stats", "--reset")
    assert done.returncode == 0
    assert str(store.path) in done.stdout
    assert store.total() == Figures()


def test_a_damaged_file_is_one_sentence_and_a_reset_mends_it(gemma_mcp: Run, store: SavingsStore) -> None:
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(b"no database at all" * 500)
    done = gemma_mcp("stats")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "`gemma-mcp stats --reset` starts a new one." in done.stderr
    assert gemma_mcp("stats", "--reset").returncode == 0
    assert gemma_mcp("stats").returncode == 0
