"""Has it become slower? Two results side by side.

The noise of a figure is half its spread (greatest less least value, by the median) in the old file plus half of it in
the new one, and at least 3 %. With five rounds, half a spread is some two standard errors of the median. A figure is a
regression when its median is worse than the old one by more than that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gemma_mcp.bench.results import Results, Series, shown
from gemma_mcp.errors import RequestError

__all__ = ["LEAST_NOISE", "Regression", "differences", "regressions"]

LEAST_NOISE = 0.03


@dataclass(frozen=True)
class Regression:
    """A figure that became worse. `change`: of the median, as a share of the old one, positive when it grew."""

    old: Series
    new: Series
    change: float
    noise: float

    def __str__(self) -> str:
        verb = "rose" if self.change > 0 else "fell"
        return (
            f"{self.new.scenario}, {self.new.target}: {self.new.label} {verb} from {shown(self.old)} to "
            f"{shown(self.new)} ({self.change:+.0%}), more than the noise of {self.noise:.0%}."
        )


def regressions(old: Results, new: Results) -> list[Regression]:
    """All of them. Raises RequestError when no figure is in both."""
    pairs = list(_pairs(old, new))
    if not pairs:
        raise RequestError(
            "The two results have no figure in common.", "Run the same scenarios, on engines of the same names."
        )
    return [found for before, now in pairs if (found := _regression(before, now)) is not None]


def _pairs(old: Results, new: Results) -> Iterator[tuple[Series, Series]]:
    known = {one.key: one for one in old.series if one.better}
    for one in new.series:
        if one.key in known:
            yield known[one.key], one


def _regression(old: Series, new: Series) -> Regression | None:
    if old.median <= 0 or new.median <= 0:
        return None
    noise = max(LEAST_NOISE, (old.spread + new.spread) / 2)
    change = new.median / old.median - 1
    worse = change if new.better == "lower" else old.median / new.median - 1
    return Regression(old, new, change, noise) if worse > noise else None


def differences(old: Results, new: Results) -> list[str]:
    """Why the figures might differ for another reason than the program: another machine, another model."""
    told: list[str] = []
    if old.machine != new.machine:
        told.append(f"The old figures are of another machine or Python: {old.machine.processor or old.machine.system}.")
    if old.model != new.model:
        told.append(f"The old figures are of another model: {old.model.name}.")
    before = {one.name: one for one in old.targets}
    for one in new.targets:
        known = before.get(one.name)
        if known is not None and known.settings != one.settings:
            changed = sorted(key for key in one.settings if known.settings.get(key) != one.settings[key])
            told.append(f"The old figures of {one.name} are of other settings: {', '.join(changed)}.")
    return told
