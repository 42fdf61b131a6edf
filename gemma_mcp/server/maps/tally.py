"""How a job stands: counts, the rate, what is said meanwhile, and why records failed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gemma_mcp.server.maps.records import Per
from gemma_mcp.server.maps.rows import Row
from gemma_mcp.server.pace import Pace, duration
from gemma_mcp.server.progress import LONGEST_MESSAGE, Speaker

__all__ = ["Failure", "Tally", "Voice", "nouns"]

NUMBER = re.compile(r"\d[\d,.]*")


def nouns(per: Per, count: int) -> str:
    """ "1 file", "2,000 lines"."""
    return f"{count:,} {per}{'' if count == 1 else 's'}"


@dataclass
class Failure:
    """One reason, and whom it befell."""

    reason: str
    count: int = 0
    names: list[str] = field(default_factory=list[str])


@dataclass
class Tally:
    """The records of a job by what became of them. `kept` were in the file of results when the call came."""

    per: Per
    speaker: Speaker
    total: int = 0
    kept: int = 0
    cached: int = 0
    computed: int = 0
    failed: int = 0
    refused: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])
    _pace: Pace | None = None
    _newest: tuple[str, str] = ("", "")

    @property
    def done(self) -> int:
        """Records with a result."""
        return self.kept + self.cached + self.computed

    @property
    def left(self) -> int:
        """Records that nothing has become of yet."""
        return self.total - self.done - self.failed - self.refused

    @property
    def _asked(self) -> int:
        return self.computed + self.failed

    def take(self, row: Row) -> None:
        """Note a new row."""
        if row.status == "ok":
            self.cached += row.cached
            self.computed += not row.cached
            self.cut += row.finish_reason == "length"
        else:
            self.failed += row.status == "failed"
            self.refused += row.status == "refused"
            self._take_failure(row)
        if not row.cached:
            self.prompt_tokens += row.prompt_tokens
            self.cached_tokens += row.cached_tokens
            self.completion_tokens += row.completion_tokens
        if self._newest[0]:
            self.say(*self._newest)

    def start(self) -> None:
        """The first question goes out now."""
        self._pace = Pace(self._asked)

    def say(self, name: str, message: str) -> None:
        """The newest of what the record `name` is at, behind how far all are."""
        self._newest = name, message
        rate = self._pace.rate(self._asked) if self._pace else 0.0
        head = f"{self.total - self.left:,} of {nouns(self.per, self.total)} · "
        if rate:
            head = f"{_per_time(rate)} · {head}{duration(self.left / rate)} left · "
            message = message.rpartition(" · ")[2]  # how long this one takes is of no interest then
        tail = f"{_shortened(name, 60)} · {message}"
        room = LONGEST_MESSAGE - len(head)
        self.speaker.say(head + (tail if len(tail) <= room else "…" + tail[1 - room :]))

    def frequent(self, most: int) -> Sequence[Failure]:
        """The most frequent reasons."""
        return sorted(self.failures.values(), key=lambda failure: -failure.count)[:most]

    def _take_failure(self, row: Row) -> None:
        """Reasons that differ in numbers, or in the name of the file, are one."""
        kind = NUMBER.sub("#", row.reason.replace(row.path, ""))
        failure = self.failures.setdefault(kind, Failure(row.reason))
        failure.count += 1
        if len(failure.names) < 3:
            failure.names.append(f"{row.path}:{row.lines}" if row.lines else row.path)


@dataclass(frozen=True)
class Voice:
    """What one record has to say."""

    tally: Tally
    name: str

    def say(self, message: str, tokens: int = 0) -> None:
        """See Speaker."""
        self.tally.say(self.name, message)


def _per_time(rate: float) -> str:
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]
