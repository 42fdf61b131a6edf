"""Seeded draws that respect the split: a payload is trained on or held out, by its hash."""

import functools
import random
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from training.words import CITIES, FILLER, NAMES

T = TypeVar("T")

STEMMED = 0.35  # share of the words in word games that begin with a whole token, where the vocabulary is known


def held_out(*key: object) -> bool:
    """One payload in ten is never trained on; the hash makes the choice the same everywhere and forever."""
    return zlib.crc32("|".join(map(str, key)).encode()) % 10 == 0


@functools.cache
def stdlib_sources() -> tuple[str, ...]:
    """Text of the standard library's top-level modules, in a fixed order."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return tuple(path.read_text("utf-8", errors="ignore") for path in sorted(folder.glob("*.py")))


@functools.cache
def stdlib_words() -> tuple[str, ...]:
    """Lower-case words that the standard library's source uses at least eight times."""
    counts: Counter[str] = Counter()
    for source in stdlib_sources():
        counts.update(re.findall(r"\b[a-z]{3,9}\b", source))
    return tuple(sorted(word for word, n in counts.items() if n >= 8 and re.search("[aeiouy]", word)))


class Draw:
    """A random source bound to one side of the split (`held=True`: only held-out payloads).

    `stems`: beginnings of words that are one token each. Games with them teach which letters a token holds.
    """

    def __init__(self, seed: int, held: bool = False, stems: Sequence[str] = ()) -> None:
        self.random = random.Random(seed)
        self.held = held
        self.stems = stems

    def one(self, items: Sequence[T]) -> T:
        return items[self.random.randrange(len(items))]

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def split(self, kind: str, make: Callable[[], T]) -> T:
        """Call `make` until its value lies on this side of the split."""
        while True:
            value = make()
            if held_out(kind, value) == self.held:
                return value

    def pseudo_word(self) -> str:
        """A pronounceable word that no table holds, so that copying is learnt instead of recall."""
        parts = [self.one("bcdfghjklmnprstvwz") + self.one("aeiou") for _ in range(self.number(1, 3))]
        return "".join(parts) + self.one(["", "n", "r", "s", "t", "l"])

    def letters(self) -> str:
        """A random string of letters: the hardest thing to copy, seen in training only."""
        return "".join(self.one("abcdefghijklmnopqrstuvwxyz") for _ in range(self.number(2, 8)))

    def stemmed(self) -> str:
        """A word that begins with a whole token, alone or with something after it."""
        stem = self.one(self.stems)
        return stem + self.one(["", "", self.letters()[:4], self.pseudo_word()])[: max(0, 10 - len(stem))]

    def word(self) -> str:
        """A word for a word game."""

        def make() -> str:
            roll = self.random.random()
            if self.stems and self.chance(STEMMED):
                return self.stemmed()
            if roll < 0.06 and not self.held:
                return self.letters()
            return self.pseudo_word() if roll < 0.25 else self.one(stdlib_words())

        return self.split("word", make)

    def any_word(self) -> str:
        return self.one(stdlib_words())

    def phrase(self, low: int, high: int) -> str:
        """Words for copying and counting; at least one of them lies on this side of the split."""
        count = self.number(low, high)
        words = [self.word() if self.chance(0.5) else self.any_word() for _ in range(count)]
        words[self.number(0, count - 1)] = self.word()
        return " ".join(words)

    def name(self) -> str:
        """A first name; invented ones teach copying letter by letter."""
        share = 0.15 if self.held else 0.4
        return self.split("name", lambda: self.pseudo_word().capitalize() if self.chance(share) else self.one(NAMES))

    def names(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            name = self.name()
            if name not in found:
                found.append(name)
        return found

    def city(self) -> str:
        share = 0.1 if self.held else 0.35
        return self.split("city", lambda: self.pseudo_word().capitalize() if self.chance(share) else self.one(CITIES))

    def filler(self, low: int, high: int) -> str:
        """Unrelated sentences."""
        return " ".join(self.one(FILLER) for _ in range(self.number(low, high)))
