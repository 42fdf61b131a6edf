"""How many tokens of prompts a step computes beside decoding rows, so that those who read replies do not wait long."""

__all__ = ["Pace"]

FEWEST_TOKENS = 8
"""A prompt always gets on."""

FIRST_TOKENS = 32
"""While nothing is known of the machine."""

TILE, TILE_COST = 4, 1.6
"""Rows that llama.cpp's kernels for a CPU multiply at once, and what that costs against one row. Each row left over
reads all weights again (`forward_mul_mat_one_chunk` of repack.cpp), so 4 rows cost less than 2. Measured: 8 cost 3.2.
"""

NEW = 0.2
"""Weight of the newest step in the averages."""


class Pace:
    """Learns how long steps take. `most`: tokens of prompts in any step; `stretch`: how many times longer than one that
    decodes alone a step may take that computes prompts, too.
    """

    def __init__(self, most: int, stretch: float) -> None:
        self._most = most
        self._stretch = stretch
        self._alone: dict[int, float] = {}
        """Seconds of steps that decode so many rows and do nothing else."""
        self._token_seconds: float | None = None
        """What each token of a prompt adds to a step."""

    def budget(self, decoding: int) -> int:
        """Tokens of prompts in a step that decodes so many rows."""
        if not decoding:
            return self._most
        if not self._alone or self._token_seconds is None:
            return min(_aligned(decoding, FIRST_TOKENS), self._most)
        fitting = (self._stretch - 1) * self.seconds(decoding) / max(self._token_seconds, 1e-9)
        return min(self._most, _aligned(decoding, max(FEWEST_TOKENS, int(fitting))))

    def took(self, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """A step that decoded so many tokens, and read so many of prompts, took so long."""
        if decoding and not prompt_tokens:
            self._alone[decoding] = _average(self._alone.get(decoding), seconds)
        elif decoding and self._alone:
            added = max(0.0, seconds - self.seconds(decoding)) / prompt_tokens
            self._token_seconds = _average(self._token_seconds, added)
        elif prompt_tokens and not decoding and self._token_seconds is None:
            self._token_seconds = seconds / prompt_tokens

    def seconds(self, rows: int) -> float:
        """What a step takes that decodes so many tokens and reads no prompt; in no unit while nothing was measured."""
        if not self._alone:
            return _shape(rows)
        known = min(self._alone, key=lambda count: (abs(count - rows), count))
        return self._alone[known] * _shape(rows) / _shape(known)


def _aligned(decoding: int, tokens: int) -> int:
    """As many or a few less, so that the rows of a step come out in whole tiles."""
    return max(0, (decoding + tokens) // TILE * TILE - decoding)


def _shape(rows: int) -> float:
    """How a step grows with its rows, where that was not measured."""
    return TILE_COST * (rows // TILE) + rows % TILE


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + NEW * (new - old)
