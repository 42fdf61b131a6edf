"""The file in which the savings of all servers are added up."""

import multiprocessing
import sqlite3
import stat
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from gemma_mcp.places import Places
from gemma_mcp.server.savings import (
    KEPT_DAYS,
    Figures,
    SavingsDamagedError,
    SavingsError,
    SavingsStore,
    savings_path,
)

ONE = Figures(sessions=1, calls=1, file_tokens=100, result_tokens=30, schema_tokens=20)


@pytest.fixture
def store(tmp_path: Path) -> SavingsStore:
    return SavingsStore(savings_path(Places.below(tmp_path)))


def add_often(path: Path, times: int) -> None:
    for _ in range(times):
        SavingsStore(path).add(ONE, "2026-01-01")


def test_what_is_saved_is_what_was_read_less_what_was_told() -> None:
    assert ONE.saved == 50
    assert Figures(calls=1, result_tokens=7).saved == -7


def test_nothing_is_written_before_the_first_call(store: SavingsStore) -> None:
    assert store.days() == []
    assert store.total() == Figures()
    store.reset()
    assert not store.path.exists()


def test_figures_are_added_up_by_day(store: SavingsStore) -> None:
    for day in ("2026-01-02", "2026-01-01", "2026-01-02"):
        store.add(ONE, day)
    assert store.days() == [("2026-01-01", ONE), ("2026-01-02", ONE + ONE)]
    assert store.total() == ONE + ONE + ONE


def test_two_processes_at_once_lose_nothing(store: SavingsStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_often, args=(store.path, 25)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert store.total() == Figures(50, 50, 0, 5000, 1500, 1000)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_only_the_user_can_read_it(store: SavingsStore) -> None:
    store.add(ONE, "2026-01-01")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_old_days_become_years_and_the_total_stays(store: SavingsStore) -> None:
    first = date(2024, 12, 30)
    for number in range(KEPT_DAYS + 5):
        store.add(ONE, (first + timedelta(days=number)).isoformat())
    days = store.days()
    assert len(days) == KEPT_DAYS + 2
    assert days[:2] == [("2024", ONE + ONE), ("2025", ONE + ONE + ONE)]
    assert days[2][0] == "2025-01-04"
    assert store.total().calls == KEPT_DAYS + 5


@pytest.mark.parametrize("damage", ["all of it", "a page"])
def test_a_damaged_file_is_told_and_a_reset_mends_it(store: SavingsStore, damage: str) -> None:
    store.add(ONE, "2026-01-01")
    page = store.path.read_bytes()[:4096]
    store.path.write_bytes(b"this is no database" * 500 if damage == "all of it" else page + b"\xff" * 4096)
    with pytest.raises(SavingsDamagedError, match=r"gemma-mcp stats --reset") as refused:
        store.add(ONE, "2026-01-01")
    assert str(store.path) in str(refused.value)
    store.reset()
    store.add(ONE, "2026-01-01")
    assert store.total() == ONE


def test_a_file_without_its_table_is_damaged(store: SavingsStore) -> None:
    store.add(ONE, "2026-01-01")
    with sqlite3.connect(store.path) as connection:
        connection.execute("DROP TABLE savings")
    connection.close()
    with pytest.raises(SavingsDamagedError):
        store.days()


def test_a_file_of_a_newer_version_is_left_alone(store: SavingsStore) -> None:
    store.add(ONE, "2026-01-01")
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for use in (store.days, store.reset, lambda: store.add(ONE, "2026-01-01")):
        with pytest.raises(SavingsError, match=r"newer gemma-mcp\. Update"):
            use()
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM savings").fetchone() == (1,)
    connection.close()


def test_a_file_that_another_program_holds_is_told_and_not_removed(
    store: SavingsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemma_mcp.server.savings.BUSY_SECONDS", 0.05)
    store.add(ONE, "2026-01-01")
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    for use in (store.days, store.reset):
        with pytest.raises(SavingsError, match="locked"):
            use()
    holder.execute("ROLLBACK")
    holder.close()
    assert store.total() == ONE


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    with pytest.raises(SavingsError, match="Make its folder writable"):
        SavingsStore(tmp_path / "data" / "savings.sqlite3").add(ONE, "2026-01-01")
