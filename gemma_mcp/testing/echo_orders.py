"""Orders that tests give the echo backend, to bring about what is rare.

A user turn that starts with `!` is an order, so that tests can bring about what is rare:

    !repeat N TEXT      say TEXT N times
    !slow SECONDS TEXT  every step with this turn takes so long, unless it is interrupted
    !hold FILE TEXT     every step with this turn lasts until FILE exists, or it is interrupted
    !die TEXT           end the process in the first step that computes this turn
    !die-at N TEXT      end the process in the step that would choose token N (from 0) of the reply
    !hang TEXT          never end the first step that computes this turn, not even when interrupted
    !once FILE ORDER    carry out the `!die...` or `!hang` ORDER only if FILE does not exist yet, and make FILE
    !fail TEXT          raise an exception in the first step that computes this turn
    !stuck TEXT         choose no token after this turn
    !raw HEX            say these bytes, valid UTF-8 or not
"""

from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """What a turn orders; `text` is what is said."""

    text: bytes
    seconds: float = 0.0
    hold: Path | None = None
    dies_at: int | None = None
    marker: Path | None = None
    hangs: bool = False
    fails: bool = False
    stuck: bool = False

    def held(self) -> bool:
        """Whether the file that ends the wait is still missing."""
        return self.hold is not None and not self.hold.exists()

    def once(self) -> bool:
        """Whether this is the time to carry it out."""
        if self.marker is None:
            return True
        if self.marker.exists():
            return False
        self.marker.touch()
        return True

    @classmethod
    def parse(cls, turn: bytes) -> "Order | None":
        """The order that a user turn gives, None for plain words, and where the turn ends within a number."""
        try:
            return cls._parse(turn)
        except ValueError:
            return None

    @classmethod
    def _parse(cls, turn: bytes) -> "Order | None":
        match turn.decode("utf-8", "replace").split(" "):
            case ["!repeat", count, *rest]:
                return cls(" ".join(rest).encode() * int(count))
            case ["!slow", seconds, *rest]:
                return cls(" ".join(rest).encode(), seconds=float(seconds))
            case ["!hold", path, *rest]:
                return cls(" ".join(rest).encode(), hold=Path(path))
            case ["!die", *rest]:
                return cls(" ".join(rest).encode(), dies_at=0)
            case ["!die-at", count, *rest]:
                return cls(" ".join(rest).encode(), dies_at=int(count))
            case ["!once", path, *rest] if (inner := cls.parse(" ".join(rest).encode())) is not None:
                return replace(inner, marker=Path(path))
            case ["!hang", *rest]:
                return cls(" ".join(rest).encode(), hangs=True)
            case ["!fail" | "!stuck" as accident, *rest]:
                return cls(" ".join(rest).encode(), fails=accident == "!fail", stuck=accident == "!stuck")
            case ["!raw", digits]:
                return cls(bytes.fromhex(digits))
            case _:
                return None
