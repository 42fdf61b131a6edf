"""A vocabulary made up on the spot, as large as the real one, in which every word of three letters is one token.

Its tokens are words that begin with a space, in order of length: " a" .. " z", " aa" .. " zz", " aaa" and so on, until
it is full. No other letters join, so a text has as many tokens as words, whatever stands beside them.
"""

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

__all__ = ["CONTROLS", "SPECIALS", "Token", "synthetic_tokens", "synthetic_words"]

SPACE = "\u2581"
"""How SentencePiece writes a space."""

CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
"""The first tokens, with the ids that Gemma 3 gives to the first four."""

UNKNOWN = "<unk>"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPECIALS = len(CONTROLS) + len(BYTES)
"""So many tokens, the first ones, are not text."""

CHARACTERS = (SPACE, *string.ascii_letters, *string.digits, *string.punctuation)
WORD_LETTERS = 3


@dataclass(frozen=True)
class Token:
    """An entry of a vocabulary; `kind` is llama.cpp's number of a token's type."""

    text: str
    score: float
    kind: int


NORMAL, UNKNOWN_KIND, CONTROL, BYTE = 1, 2, 3, 6


def synthetic_tokens(size: int) -> Iterator[Token]:
    """The entries of a vocabulary of `size` tokens, at least some 400."""
    yield from islice(itertools.chain(_specials(), _normals()), size)


def _specials() -> Iterator[Token]:
    for text in CONTROLS:
        yield Token(text, 0.0, UNKNOWN_KIND if text == UNKNOWN else CONTROL)
    for text in BYTES:
        yield Token(text, 0.0, BYTE)


def _normals() -> Iterator[Token]:
    """Shorter words first: each is reached by adding its last letter to the one before."""
    texts = itertools.chain(CHARACTERS, (SPACE + word for word in _words(1)))
    for rank, text in enumerate(texts):
        yield Token(text, -float(rank), NORMAL)


def _words(shortest: int) -> Iterator[str]:
    for length in itertools.count(shortest):
        yield from map("".join, product(string.ascii_lowercase, repeat=length))


def synthetic_words(size: int) -> tuple[str, ...]:
    """The words of three letters that a vocabulary of `size` tokens holds, of two where it is too small for them."""
    before = SPECIALS + len(CHARACTERS) + sum(26**length for length in range(1, WORD_LETTERS))
    if size <= before:
        return tuple(islice(_words(2), max(0, size - (before - 26**2))))
    return tuple(islice(_words(WORD_LETTERS), min(26**WORD_LETTERS, size - before)))
