import os
from pathlib import Path

import psutil
import pytest

from gemma_mcp.hardware import measure

GIB = 1 << 30


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n", encoding="utf-8")


def test_this_machine_is_measured() -> None:
    hardware = measure()
    assert 1 <= hardware.physical_cores <= hardware.usable_cores <= (os.cpu_count() or 1)
    assert 0 < hardware.available_bytes <= hardware.memory_bytes <= psutil.virtual_memory().total


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert measure(tmp_path).memory_bytes == psutil.virtual_memory().total


def test_a_quota_of_version_2_limits_cores_and_memory(tmp_path: Path) -> None:
    write(tmp_path / "proc/self", cgroup="0::/user/shell")
    write(tmp_path / "sys/fs/cgroup/user", cpu__max="50000 100000", memory__max="max")
    write(
        tmp_path / "sys/fs/cgroup/user/shell",
        cpu__max="max 100000",
        memory__max=str(GIB // 4),
        memory__current=str(GIB // 8),
        memory__stat=f"anon 1\ninactive_file {GIB // 16}",
    )
    hardware = measure(tmp_path)
    assert (hardware.usable_cores, hardware.physical_cores) == (1, 1)
    assert hardware.memory_bytes == GIB // 4
    assert hardware.available_bytes == GIB // 4 - GIB // 16


def test_a_quota_of_version_1_limits_cores_and_memory(tmp_path: Path) -> None:
    write(tmp_path / "proc/self", cgroup="4:cpu,cpuacct:/box\n3:memory:/box")
    write(tmp_path / "sys/fs/cgroup/cpu/box", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    write(
        tmp_path / "sys/fs/cgroup/memory/box",
        memory__limit_in_bytes=str(GIB // 4),
        memory__usage_in_bytes=str(GIB // 8),
        memory__stat=f"total_inactive_file {GIB // 8}",
    )
    hardware = measure(tmp_path)
    assert hardware.usable_cores == 1
    assert (hardware.memory_bytes, hardware.available_bytes) == (GIB // 4, GIB // 4)


def test_in_a_container_the_limits_stand_at_the_top_of_the_mount(tmp_path: Path) -> None:
    write(tmp_path / "proc/self", cgroup="0::/kubepods/pod1")
    write(tmp_path / "sys/fs/cgroup", memory__max=str(GIB // 2), cpu__max="100000 100000")
    hardware = measure(tmp_path)
    assert (hardware.memory_bytes, hardware.usable_cores) == (GIB // 2, 1)


def test_a_group_over_its_limit_has_nothing_available(tmp_path: Path) -> None:
    write(tmp_path / "proc/self", cgroup="0::/")
    write(tmp_path / "sys/fs/cgroup", memory__max="1000", memory__current="2000")
    assert measure(tmp_path).available_bytes == 0


@pytest.mark.parametrize("text", ["", "nonsense", "0::", ":::", "-1", "0::/\x00", "٣"])
def test_unreadable_limits_are_no_limits(tmp_path: Path, text: str) -> None:
    write(tmp_path / "proc/self", cgroup=text or "0::/")
    write(tmp_path / "sys/fs/cgroup", cpu__max=text, memory__max=text, memory__current=text)
    assert measure(tmp_path).memory_bytes == psutil.virtual_memory().total


def test_a_platform_without_affinity_counts_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert measure(tmp_path).usable_cores == (os.cpu_count() or 1)


def test_a_machine_that_does_not_tell_its_memory_is_measured_as_zero(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    hardware = measure(tmp_path)
    assert (hardware.memory_bytes, hardware.available_bytes) == (0, 0)
