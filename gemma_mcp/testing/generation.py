"""What tests of backends do again and again: run prompts through an executor by hand, and compare replies."""

import itertools
from collections.abc import Sequence

from gemma_mcp.engine.backend import (
    Executor,
    Piece,
    Row,
    Sampled,
    SlotOptions,
    Step,
    StepResult,
    TokenPiece,
    TokenRow,
    Trim,
)
from gemma_mcp.engine.backend import MediaRow as _MediaRow
from gemma_mcp.types import Sampling

__all__ = [
    "GREEDY",
    "assert_equal_output",
    "decode_on",
    "empty",
    "ids_of",
    "length",
    "pieces_after",
    "prefill",
    "reply",
    "rows_of",
    "text_of",
    "tokens_of",
]

GREEDY = SlotOptions(sampling=Sampling(temperature=0), logprobs=2)
"""Temperature 0, with the two best log-probabilities, which `assert_equal_output` needs."""

TIE = 0.01
"""Log-probabilities closer than this may swap when a batch has another shape: it rounds differently."""


def rows_of(slot: int, pieces: Sequence[Piece], start: int = 0, *, sample: bool = True) -> list[Row]:
    """The rows that compute `pieces` from position `start`; with `sample` a token is chosen after the last."""
    rows: list[Row] = []
    for index, piece in enumerate(pieces):
        if isinstance(piece, TokenPiece):
            rows.append(TokenRow(slot, start, piece.ids, sample and index == len(pieces) - 1))
        else:
            rows.append(_MediaRow(slot, start, piece.media))
        start += length([piece])
    return rows


def length(pieces: Sequence[Piece]) -> int:
    """Positions that `pieces` take."""
    return sum(len(piece.ids) if isinstance(piece, TokenPiece) else piece.positions for piece in pieces)


def empty(executor: Executor) -> None:
    """Trim every slot to nothing."""
    executor.step(Step(trims=tuple(Trim(slot, 0) for slot in range(executor.info.slots))))


def prefill(
    executor: Executor, slot: int, pieces: Sequence[Piece], start: int = 0, chunk: int | None = None
) -> Sampled:
    """Compute a prompt, at most `chunk` tokens a step, and give the token chosen after it."""
    outputs: list[StepResult] = []
    for row in _chunked(rows_of(slot, pieces, start), chunk or executor.info.step_tokens):
        outputs.append(executor.step(Step(rows=(row,))))
        assert outputs[-1].status == "done"
    return outputs[-1].outputs[0].tokens[0]


def _chunked(rows: Sequence[Row], chunk: int) -> list[Row]:
    cut: list[Row] = []
    for row in rows:
        if isinstance(row, _MediaRow):
            cut.append(row)
            continue
        for start in range(0, len(row.tokens), chunk):
            tokens = row.tokens[start : start + chunk]
            last = start + chunk >= len(row.tokens)
            cut.append(TokenRow(row.slot, row.position + start, tokens, row.sample and last))
    return cut


def decode_on(executor: Executor, firsts: dict[int, tuple[Sampled, int]], limit: int = 64) -> dict[int, list[Sampled]]:
    """Decode several slots together until each has ended; `firsts`: first token and its position, for each slot."""
    replies = {slot: [first] for slot, (first, _) in firsts.items()}
    for index in itertools.count():
        rows = tuple(
            TokenRow(slot, firsts[slot][1] + index, (tokens[-1].token,), True)
            for slot, tokens in replies.items()
            if len(tokens) == index + 1 and len(tokens) < limit and not tokens[-1].end
        )
        if not rows:
            return replies
        result = executor.step(Step(rows=rows))
        assert result.status == "done"
        for output in result.outputs:
            replies[output.slot].extend(output.tokens)
    raise AssertionError("unreachable")


def reply(
    executor: Executor,
    pieces: Sequence[Piece],
    options: SlotOptions = GREEDY,
    *,
    slot: int = 0,
    chunk: int | None = None,
    limit: int = 64,
) -> list[Sampled]:
    """What the model says to a prompt, alone and from an empty slot."""
    executor.step(Step(trims=(Trim(slot, 0),)))
    executor.open(slot, options)
    first = prefill(executor, slot, pieces, chunk=chunk)
    return decode_on(executor, {slot: (first, length(pieces))}, limit)[slot]


def text_of(tokens: Sequence[Sampled]) -> str:
    """The text of sampled tokens."""
    return b"".join(token.piece for token in tokens).decode("utf-8", "replace")


def assert_equal_output(one: Sequence[Sampled], other: Sequence[Sampled]) -> None:
    """Greedy replies are equal up to a token where the two best were as good as tied."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left.token != right.token:
            gap = min(_gap(left), _gap(right))
            assert gap < TIE, f"token {index}: {left.piece!r} against {right.piece!r}, the two best {gap:.3f} apart"
            return
    assert len(one) == len(other)


def _gap(token: Sampled) -> float:
    assert token.logprob is not None
    top = token.logprob.top
    return top[0][2] - top[1][2] if len(top) > 1 else float("inf")


def ids_of(pieces: Sequence[Piece]) -> tuple[int, ...]:
    """The token ids of a prompt, images left out."""
    return tuple(token for piece in pieces if isinstance(piece, TokenPiece) for token in piece.ids)


def tokens_of(sampled: Sequence[Sampled]) -> tuple[int, ...]:
    """The ids of sampled tokens."""
    return tuple(token.token for token in sampled)


def pieces_after(pieces: Sequence[Piece], start: int) -> list[Piece]:
    """What is left of a prompt without images after `start` positions."""
    return [TokenPiece(ids_of(pieces)[start:])]
