"""SentencePiece-style tokenizer with a hand-built vocabulary; encodes exactly as llama.cpp does.

Multi-character tokens are only left-to-right prefixes of "▁word" (lower case), runs of "▁", the tags of file
blocks, and "user\\n", "model\\n" with the suffixes their merges need. So a name, or a word after a quote or
a newline, is spelled in characters, and copying, reversing and spelling are compositional. Capitals never
enter a longer token: "▁Berlin" as one token would make `"city": "Berlin"` a spelling nothing had ever shown.
"""

import functools
import heapq
import json
import random
import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from training.words import table

SPACE = "\u2581"
CONTROL = table("""
<pad> <eos> <bos> <unk> <mask> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image>
<image_soft_token> <|fim_prefix|> <|fim_suffix|> <|fim_middle|> <|file_separator|>
""")
CHARACTERS = [
    "\n",
    SPACE,
    *string.ascii_letters,
    *string.digits,
    *string.punctuation,
    *"éèêëàâçôùûîïœ°£€\u2019“”\u2013",
]
UNIT = re.compile(f"{SPACE}*[^{SPACE}\n]*\n|{SPACE}*[^{SPACE}\n]+|{SPACE}+")


@dataclass(frozen=True)
class Piece:
    """One vocabulary entry; kinds: C control, U unknown, B byte, N normal."""

    text: str
    score: float
    kind: str


def build(words: Iterable[str]) -> list[Piece]:
    """The vocabulary for the given whole words; a merge's score falls with its rank, so words come first."""
    special = [Piece(text, 0.0, "U" if text == "<unk>" else "C") for text in CONTROL]
    special += [Piece(f"<0x{byte:02X}>", 0.0, "B") for byte in range(256)]
    merged: dict[str, None] = {}
    for word in words:
        merged.update(dict.fromkeys((SPACE + word)[:n] for n in range(2, len(word) + 2)))
    for role in ("user\n", "model\n"):
        merged.update(dict.fromkeys(role[-n:] for n in range(2, len(role) + 1)))
    for tag in ("<file", "</file>"):
        merged.update(dict.fromkeys(tag[:n] for n in range(2, len(tag) + 1)))
    merged.update(dict.fromkeys(SPACE + sign for sign in "=+-*/<>%\"([{#'"))
    merged.update(dict.fromkeys(SPACE * n for n in range(2, 9)))
    ranked = [Piece(text, -float(rank), "N") for rank, text in enumerate(merged, 1)]
    return special + ranked + [Piece(text, -1e5, "N") for text in CHARACTERS]


@dataclass
class Encoded:
    """Token ids, a loss mask of the same length, and where each image's soft tokens start."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def add(self, ids: Iterable[int], learn: bool = False) -> None:
        ids = list(ids)
        self.ids += ids
        self.mask += [int(learn)] * len(ids)


class Tokenizer:
    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self.id = {piece.text: i for i, piece in enumerate(pieces)}
        self.normal = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == "N"}
        self._unit = functools.lru_cache(400_000)(self._merge)

    def __len__(self) -> int:
        return len(self.pieces)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps([[p.text, p.score, p.kind] for p in self.pieces]), "utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        return cls([Piece(*row) for row in json.loads(path.read_text("utf-8"))])

    def _merge(self, text: str) -> tuple[int, ...]:
        """llama.cpp's merge loop: the best-scored neighbouring pair first, the leftmost of equals."""
        symbols, count = list(text), len(text)
        before, after = list(range(-1, count - 1)), [*range(1, count), -1]
        queue: list[tuple[float, int, int, int]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                joined = symbols[left] + symbols[right]
                if joined in self.normal:
                    heapq.heappush(queue, (-self.pieces[self.normal[joined]].score, left, right, len(joined)))

        for i in range(1, count):
            offer(i - 1, i)
        while queue:
            _, left, right, size = heapq.heappop(queue)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != size:
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return tuple(token for symbol in symbols if symbol for token in self._lookup(symbol))

    def _lookup(self, symbol: str) -> list[int]:
        if symbol in self.normal:
            return [self.normal[symbol]]
        return [self.id[f"<0x{byte:02X}>"] for byte in symbol.encode()]

    def encode(self, text: str, dropout: float = 0.0, rng: random.Random | None = None) -> list[int]:
        """Ids of plain text. With dropout a word is cut at a random prefix and spelled from there on."""
        ids: list[int] = []
        for unit in UNIT.findall(text.replace(" ", SPACE)):
            if dropout and rng and len(unit) > 3 and unit[0] == SPACE != unit[1] and rng.random() < dropout:
                cut = rng.randint(1, len(unit) - 1)
                ids += self._unit(unit[:cut])
                for character in unit[cut:]:
                    ids += self._unit(character)
            else:
                ids += self._unit(unit)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        out = b""
        for i in ids:
            piece = self.pieces[i]
            if piece.kind == "B":
                out += bytes([int(piece.text[3:5], 16)])
            elif piece.kind == "N":
                out += piece.text.replace(SPACE, " ").encode()
        return out.decode("utf-8", "replace")

    def chat(
        self,
        turns: Iterable[tuple[str, str | None]],
        system: str = "",
        dropout: float = 0.0,
        rng: random.Random | None = None,
        images: int = 0,
        image_tokens: int = 16,
        images_last: bool = False,
    ) -> Encoded:
        """Gemma 3's chat format; a reply of None leaves the model's turn open. Images are in the first."""
        out = Encoded()
        out.add([self.id["<bos>"]])
        for number, (question, reply) in enumerate(turns):
            newline = self.encode("\n") if number else []
            head = f"user\n{system}\n\n" if system and not number else "user\n"
            out.add([*newline, self.id["<start_of_turn>"]])
            if number or not images:
                out.add(self.encode(head + question.strip(), dropout, rng))
            else:
                self._with_images(out, head, question.strip(), images, image_tokens, images_last)
            out.add([self.id["<end_of_turn>"], *self.encode("\n"), self.id["<start_of_turn>"]])
            out.add(self.encode("model\n"))
            if reply is not None:
                out.add([*self.encode(reply), self.id["<end_of_turn>"]], learn=True)
        return out

    def _with_images(self, out: Encoded, head: str, text: str, images: int, tokens: int, last: bool) -> None:
        out.add(self.encode(head + text if last else head))
        for _ in range(images):
            out.add([self.id["<start_of_image>"]])
            out.images.append(len(out.ids))
            out.add([self.id["<image_soft_token>"]] * tokens + [self.id["<end_of_image>"]])
        out.add([] if last else self.encode(text))

    def infill(
        self,
        prefix: str,
        suffix: str,
        middle: str | None,
        dropout: float = 0.0,
        rng: random.Random | None = None,
    ) -> Encoded:
        """CodeGemma's fill-in-the-middle format, ended by <eos>."""
        out = Encoded()
        out.add([self.id["<bos>"], self.id["<|fim_prefix|>"], *self.encode(prefix, dropout, rng)])
        out.add([self.id["<|fim_suffix|>"], *self.encode(suffix, dropout, rng), self.id["<|fim_middle|>"]])
        if middle is not None:
            out.add([*self.encode(middle), self.id["<eos>"]], learn=True)
        return out

    def completion(
        self, prefix: str, rest: str | None, dropout: float = 0.0, rng: random.Random | None = None
    ) -> Encoded:
        """Plain left-to-right text, ended by <eos>."""
        out = Encoded()
        out.add([self.id["<bos>"], *self.encode(prefix, dropout, rng)])
        if rest is not None:
            out.add([*self.encode(rest), self.id["<eos>"]], learn=True)
        return out


def frequent_words(texts: Iterable[str], least: int, most: int) -> list[str]:
    """Whole words worth a token: lower case, often seen after a space."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r" ([a-z]{2,})(?![A-Za-z])", text))
    return [word for word, count in counts.most_common(most) if count >= least]
