"""Threads give way to other programs, and come back."""

from collections.abc import Sequence

import pytest
from gemma_mcp_llamacpp.threads import INTERVAL, CpuTimes, Threads, read_cpu_times


def counts(
    monkeypatch: pytest.MonkeyPatch, others: Sequence[float], *, most: int = 4, cores: int = 4, adapt: bool = True
) -> list[int]:
    """What is chosen after each interval in which other programs used so many cores, and this process all its own."""
    now, all_, own = 100.0, 1000.0, 10.0

    def read() -> CpuTimes:
        return CpuTimes(now, cores, all_, own)

    monkeypatch.setattr("gemma_mcp_llamacpp.threads.time.monotonic", lambda: now)
    threads = Threads(most, adapt=adapt, read=read)
    chosen = [threads.count()]
    for used in others:
        now += INTERVAL
        own += INTERVAL * chosen[-1]
        all_ += INTERVAL * (chosen[-1] + used)
        chosen.append(threads.count())
    return chosen[1:]


def test_an_idle_machine_is_used_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counts(monkeypatch, [0.0, 0.1, 0.3]) == [4, 4, 4]


@pytest.mark.parametrize(("used", "left"), [(1.0, 3), (0.6, 3), (2.2, 2), (9.0, 1)])
def test_cores_that_others_use_are_left_to_them(monkeypatch: pytest.MonkeyPatch, used: float, left: int) -> None:
    assert counts(monkeypatch, [used]) == [left]


def test_cores_are_taken_again_when_they_were_free_twice_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counts(monkeypatch, [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]) == [3, 3, 3, 3, 4, 4]


def test_cores_beyond_those_that_are_used_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counts(monkeypatch, [3.0, 5.0], most=4, cores=8) == [4, 3]


def test_a_number_that_the_user_chose_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counts(monkeypatch, [3.0, 3.0], adapt=False) == [4, 4]


def test_this_process_is_part_of_what_all_use() -> None:
    before = read_cpu_times()
    sum(range(10**7))
    after = read_cpu_times()
    assert after.cores >= 1
    assert after.own > before.own
    assert after.all >= before.all + (after.own - before.own) / 2
