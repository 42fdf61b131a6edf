import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gemma_mcp.errors import InputRefusedError
from gemma_mcp.server.cuts import Count, cut_files, cut_text
from gemma_mcp.server.inputs.files import TextFile, split_lines

ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " ", "", "é", "e\u0301", "👩\u200d💻"])
TEXTS = st.lists(st.tuples(st.text(max_size=20), ENDS), max_size=60).map(
    lambda parts: "".join(word + end for word, end in parts)
)


async def characters(texts: Sequence[str]) -> Sequence[int]:
    return [len(text) for text in texts]


async def uneven(texts: Sequence[str]) -> Sequence[int]:
    """A tokenizer that likes letters and hates the rest."""
    return [sum(1 if char == "\n" or (char.isascii() and char.isalpha()) else 3 for char in text) for text in texts]


async def tokens_of(count: Count, text: str) -> int:
    return (await count([text]))[0]


@given(TEXTS, st.integers(1, 12))
@example("\r\n" * 9, 6)
@example("a\u0301" * 5, 9)
def test_every_character_is_in_exactly_one_piece_of_a_text(text: str, count: int) -> None:
    pieces = cut_text(text, count)
    assert "".join(pieces) == text
    assert all(pieces)
    if len(text) > 1 and count > 1:
        assert len(pieces) > 1


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(150, 400), st.sampled_from([characters, uneven]))
def test_every_character_is_in_exactly_one_piece_of_files_and_every_piece_fits(
    texts: list[str], most: int, count: Count
) -> None:
    files = [TextFile(f"{number}.txt", text) for number, text in enumerate(texts)]
    pieces = asyncio.run(cut_files(files, most, count))
    parts = [part for piece in pieces for part in piece.files]
    for file in files:
        assert "".join(part.text for part in parts if part.name == file.name) == file.text
    assert list(dict.fromkeys(part.name for part in parts)) == [file.name for file in files]
    for piece in pieces:
        blocks = "\n".join(part.block for part in piece.files)
        assert asyncio.run(tokens_of(count, blocks)) <= most


@given(TEXTS)
def test_parts_say_which_lines_they_are(text: str) -> None:
    lines = split_lines(text)
    pieces = asyncio.run(cut_files([TextFile("a", text)], 70, characters))
    for part in (part for piece in pieces for part in piece.files if part.lines):
        first, last = map(int, part.lines.split("-"))
        assert part.text in "".join(lines[first - 1 : last])


def test_lines_of_a_range_keep_their_numbers() -> None:
    text = "".join(f"{number}\n" for number in range(100, 150))
    pieces = asyncio.run(cut_files([TextFile("a", text, "100-149")], 150, characters))
    parts = [part for piece in pieces for part in piece.files]
    assert len(parts) > 1
    assert all(part.text.startswith(part.lines.partition("-")[0] + "\n") for part in parts)
    assert parts[-1].lines.endswith("-149")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("aaaa\n\nbb\ncc dd", ["aaaa\n\n", "bb\ncc dd"]),
        ("aaaaa\nb\ncc dd ee", ["aaaaa\nb\n", "cc dd ee"]),
        ("aaaaa bb cc dd ee", ["aaaaa ", "bb cc dd ee"]),
        ("aaaaaaaaaaaa", ["aaaaaa", "aaaaaa"]),
    ],
)
def test_cuts_come_between_paragraphs_before_lines_before_words(text: str, pieces: list[str]) -> None:
    assert cut_text(text, 2) == pieces


def test_small_files_share_a_piece() -> None:
    files = [TextFile(f"{number}.txt", "x" * 20) for number in range(10)]
    pieces = asyncio.run(cut_files(files, 200, characters))
    assert [len(piece.files) for piece in pieces] == [4, 4, 2]
    assert pieces[0].source == "0.txt, 1.txt, 2.txt, 3.txt"


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputRefusedError, match="its name alone does not fit"):
        asyncio.run(cut_files([TextFile("n" * 100, "x")], 60, characters))
