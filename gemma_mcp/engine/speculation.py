"""Guesses of what a reply says next, taken from what was said before: prompt lookup.

The reply does not change by them: each token is chosen as it would have been, and a guess only saves a pass where it
turns out to be right. So work that copies (a file with a few lines changed, a quotation) takes fewer passes.
"""

from collections.abc import Callable, Sequence

__all__ = ["MOST_GUESSES", "Guesser", "guesses_worth"]

NGRAM = 3
"""Tokens that must have occurred before for what followed them to be a guess."""

MOST_GUESSES = 8
"""In one row."""

NEW = 0.2
"""Weight of the newest guesses in the share that was right."""

PAUSE = 32
"""Tokens after which a reply whose guesses did not pay tries again."""


class Guesser:
    """Guesses for one reply. `right` is the share of its guesses that were right lately; it begins hopeful."""

    def __init__(self) -> None:
        self.right = 0.7
        self._places: dict[tuple[int, ...], int] = {}
        self._read = 0
        self._quiet_until = 0

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow."""
        self._learn(tokens)
        place = self._places.get(tuple(tokens[-NGRAM:])) if count > 0 else None
        return [] if place is None else list(tokens[place : place + count])

    def _learn(self, tokens: Sequence[int]) -> None:
        """Where each run of tokens was followed by what; the last one itself is left out, it has no follower yet."""
        for end in range(max(NGRAM, self._read), len(tokens)):
            self._places[tuple(tokens[end - NGRAM : end])] = end
        self._read = max(self._read, len(tokens))

    def wanted(self, tokens: int) -> bool:
        """Whether to guess at all, in a reply that has so many tokens."""
        return tokens >= self._quiet_until

    def rest(self, tokens: int) -> None:
        """Guessing does not pay at present."""
        self._quiet_until = tokens + PAUSE
        self.right = max(self.right, 0.5)  # another try deserves some hope

    def happened(self, guessed: int, right: int) -> None:
        """Of so many guesses so many were right; those after the first wrong one say nothing."""
        for outcome in [1.0] * right + [0.0] * (right < guessed):
            self.right += NEW * (outcome - self.right)


def guesses_worth(right: float, rows: int, seconds: Callable[[int], float], most: int) -> int:
    """How many guesses make a reply fastest, added to a step of `rows` rows that takes `seconds(rows)`.

    With a share p of right guesses, k of them give (1 - p^(k+1)) / (1 - p) tokens (Leviathan et al. 2023, eq. 1). What
    they add to the step is weighed against it; the other rows of the step wait, too.
    """
    speeds = [(rows - 1 + _tokens(right, count)) / seconds(rows + count) for count in range(most + 1)]
    return speeds.index(max(speeds))


def _tokens(right: float, guesses: int) -> float:
    return sum(right**count for count in range(guesses + 1))
