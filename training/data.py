"""Writes the vocabulary and the text samples: `python -m training.data`."""

import argparse
import collections
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training import tasks, words
from training.draw import Draw, stdlib_words
from training.tokenizer import SPACE, Encoded, Tokenizer, build, frequent_words

WORK = Path(__file__).parent / "build"
LONGEST = 480  # below the sliding window of 512: training needs no window mask
PICTURE_WORDS = words.table("""
image shape colour color circle square triangle shapes picture text says number left right top bottom there is
are and two three four one red green blue yellow black white orange purple pink see first second same both
images where what which how many in the on at middle
""")
PAYLOAD_LEAST = 750
"""How often in 60,000 samples a word of the word games must occur to become a token."""
PAYLOAD = frozenset(words.table("repeat count reverse upper lower spell unknown count_file"))


def _text(job: str, sample: tasks.Sample) -> str:
    """The words of a sample that may become tokens: word-game payloads may not."""
    if isinstance(sample, tasks.Code):
        return sample.prefix + sample.middle
    text = "\n".join(f"{ask}\n{reply}" for ask, reply in sample.turns)
    for sentence in words.FILLER:
        text = text.replace(sentence, "")
    if job not in PAYLOAD:
        return text
    return " ".join(
        re.findall(r" (?:the|word|words|is|are|in|to|uppercase|letters|sentence|many|this|that|backwards)\b", text)
    )


def vocabulary_words() -> list[str]:
    """The whole words that become one token.

    A word that games may be played with must be frequent to be worth it: its letters, which the games need, are hidden
    in a token, and have to be learnt by heart. Spelled in characters it is copied, turned round and put in capitals as
    any other word is.
    """
    draw = Draw(7)
    texts = [_text(*tasks.sample(draw)) for _ in range(60_000)]
    payload = set(stdlib_words()) - set(frequent_words(texts, least=PAYLOAD_LEAST, most=240))
    chosen = [word for word in frequent_words(texts, least=150, most=240) if word not in payload]
    return chosen + [word for word in PICTURE_WORDS if word not in chosen]


def make_vocabulary() -> Tokenizer:
    return Tokenizer(build(vocabulary_words()))


def encode(tokenizer: Tokenizer, sample: tasks.Sample, dropout: float, rng: random.Random) -> Encoded:
    if isinstance(sample, tasks.Chat):
        return tokenizer.chat(sample.turns, sample.system, dropout, rng)
    if sample.infill:
        return tokenizer.infill(sample.prefix, sample.suffix, sample.middle, dropout, rng)
    return tokenizer.completion(sample.prefix, sample.middle, dropout, rng)


def stems(tokenizer: Tokenizer) -> list[str]:
    """The beginnings of words, two letters and more, that the vocabulary holds as one token."""
    return [piece[1:] for piece in tokenizer.normal if re.fullmatch(f"{SPACE}[a-z]{{2,}}", piece)]


def samples(tokenizer: Tokenizer, count: int, seed: int) -> Iterator[tuple[str, Encoded]]:
    """Encoded training samples; half of them see one word in ten cut and spelled."""
    draw, rng = Draw(seed, stems=stems(tokenizer)), random.Random(seed)
    while count:
        job, sample = tasks.sample(draw)
        encoded = encode(tokenizer, sample, 0.1 if rng.random() < 0.5 else 0.0, rng)
        if len(encoded.ids) <= LONGEST:
            count -= 1
            yield job, encoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=800_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    vocabulary = WORK / "tokenizer.json"
    if not vocabulary.exists():
        make_vocabulary().save(vocabulary)
    tokenizer = Tokenizer.load(vocabulary)
    ids, mask, lengths, sums = [], [], [], collections.defaultdict(lambda: np.zeros(3, int))
    for job, sample in samples(tokenizer, options.count, options.seed):
        ids.append(np.array(sample.ids, np.uint16))
        mask.append(np.array(sample.mask, np.uint8))
        lengths.append(len(sample.ids))
        sums[job] += (1, len(sample.ids), sum(sample.mask))
    np.savez(WORK / f"text{options.seed}.npz", ids=np.concatenate(ids), mask=np.concatenate(mask), lengths=lengths)
    print(f"vocabulary {len(tokenizer)}, tokens {sum(lengths)}, longest {max(lengths)}")
    for job, (count, tokens, learned) in sorted(sums.items()):
        print(f"{job:12s} n {count:7d}  tokens {tokens / count:6.1f}  learned {learned / count:5.1f}")


if __name__ == "__main__":
    main()
