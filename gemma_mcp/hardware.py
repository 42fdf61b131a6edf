"""The machine as this process may use it: cores and memory, within the limits of a container. Nothing here raises."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Hardware", "measure"]

ROOT = Path("/")


@dataclass(frozen=True)
class Hardware:
    """Cores and bytes.

    `usable_cores` are the logical ones left by CPU affinity and a container's quota, `physical_cores` never more than
    these: two threads of one core gain nothing in matrix products. `memory_bytes` and `available_bytes` respect a
    container's limit.
    """

    physical_cores: int
    usable_cores: int
    memory_bytes: int
    available_bytes: int


def measure(root: Path = ROOT) -> Hardware:
    """Look at the machine now. `root` is where `/proc` and `/sys` are found."""
    groups = list(_control_groups(root))
    usable = max(1, min([_affinity(), *_core_quotas(groups)]))
    memory = _memory()
    limits = [(limit, used) for group in groups if (limit := _limit(group)) for used in [_used(group)]]
    return Hardware(
        physical_cores=min(usable, psutil.cpu_count(logical=False) or usable),
        usable_cores=usable,
        memory_bytes=min([memory[0], *(limit for limit, _ in limits)]),
        available_bytes=max(0, min([memory[1], *(limit - used for limit, used in limits)])),
    )


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Windows and macOS have none
        return os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    try:
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError, ValueError, psutil.Error):
        return 0, 0
    return memory.total, memory.available


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control group and those above it; each may set a limit. Version 2, else 1."""
    base = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        mounts = [base] if not controllers else [base / name for name in controllers.split(",")]
        relative = Path(path.lstrip("/"))
        for mount in mounts:
            # In a container the path is the host's, while the mount shows the container's own group at its top.
            yield from (mount / part for part in (relative, *relative.parents) if (mount / part).is_dir())


def _core_quotas(groups: list[Path]) -> Iterator[int]:
    for group in groups:
        quota, period = [*(_read(group / "cpu.max") or "").split(), "", ""][:2]
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us") or "", _read(group / "cpu.cfs_period_us") or ""
        allowed, window = _number(quota), _number(period)
        if allowed and window:
            yield math.ceil(allowed / window)


def _limit(group: Path) -> int | None:
    """Bytes; None without a limit. Version 1 writes a number near 2**63 for none, which no machine reaches."""
    return _number(_read(group / "memory.max")) or _number(_read(group / "memory.limit_in_bytes"))


def _used(group: Path) -> int:
    """Bytes in use, without file pages that are given back on demand."""
    used = _number(_read(group / "memory.current")) or _number(_read(group / "memory.usage_in_bytes")) or 0
    return max(0, used - _reclaimable(_read(group / "memory.stat") or ""))


def _reclaimable(statistics: str) -> int:
    for line in statistics.splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return _number(value) or 0
    return 0


def _number(text: str | None) -> int | None:
    """A count above 0; None for "max", -1, nothing."""
    return int(text) if text and text.isascii() and text.isdigit() and int(text) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
