"""Prompts of a given number of tokens, other ones in each round, the same for each engine of a round."""

import random
from collections.abc import Sequence

from gemma_mcp.bench.shapes import MADE_BY
from gemma_mcp.bench.vocabulary import synthetic_words
from gemma_mcp.models.gguf import Array, GgufHeader

__all__ = ["Prompts", "words_of"]

ENGLISH = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they "
    "which one you were all her she there would their we him been has when who will no more if out so what up "
    "said its about than into them can only other time new some could these two may first then do any like my now "
    "over such our man me even most made after also well did many before must through years where much your way "
    "down should because long each just state those people too how little good world make very year still see own "
    "work men day get here old life both between being under three never know same last another while us off "
    "might great go come since against right came "
)
"""Each is a token in any vocabulary of Gemma's."""


class Prompts:
    """Makes texts of words, each with a space before it. `tokens_per_word` is 1 where each word is a token."""

    def __init__(self, words: Sequence[str], seed: int, tokens_per_word: float = 1.0) -> None:
        self.words = words
        self.seed = seed
        self.tokens_per_word = tokens_per_word

    def text(self, tokens: int, *key: object) -> str:
        """A text of so many tokens, always the same for a key; another key gives another text."""
        count = max(1, round(tokens / self.tokens_per_word))
        numbers = random.Random("/".join(map(str, (self.seed, *key))))
        return "".join(f" {word}" for word in numbers.choices(self.words, k=count))


def words_of(header: GgufHeader | None) -> tuple[str, ...]:
    """Words that are one token each, if the model is synthetic; else common English ones."""
    tokens = header.metadata.get("tokenizer.ggml.tokens") if header else None
    if header is None or header.text("general.author") != MADE_BY or not isinstance(tokens, Array):
        return tuple(ENGLISH.split())
    return synthetic_words(tokens.length)
