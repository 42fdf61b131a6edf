"""How fast something gets done, and how long the rest of it takes, as a person reads it."""

from dataclasses import dataclass, field
from time import monotonic

__all__ = ["Pace", "duration"]

SHORTEST = 0.1
"""Seconds over which a rate means something."""


@dataclass
class Pace:
    """Something whose amount grows from `first` on; amounts are in any unit."""

    first: float
    started: float = field(default_factory=monotonic)

    def rate(self, done: float) -> float:
        """Units a second so far; 0 when that cannot be told yet."""
        seconds = monotonic() - self.started
        return max(0.0, done - self.first) / seconds if seconds >= SHORTEST else 0.0


def duration(seconds: float) -> str:
    """Whole seconds, or minutes and seconds when there are many."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"
