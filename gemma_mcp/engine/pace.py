"""How many tokens of prompts a step computes beside decoding rows, so that those who read replies do not wait long."""

__all__ = ["Pace"]

FEWEST_TOKENS = 8
"""A prompt always gets on."""

FIRST_TOKENS = 32
"""While nothing is known of the machine."""

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
        alone = self._decoding_alone(decoding)
        if alone is None or self._token_seconds is None:
            return min(FIRST_TOKENS, self._most)
        fitting = (self._stretch - 1) * alone / max(self._token_seconds, 1e-9)
        return min(self._most, max(FEWEST_TOKENS, int(fitting)))

    def took(self, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """A step of so many rows and tokens took so long."""
        if decoding and not prompt_tokens:
            self._alone[decoding] = _average(self._alone.get(decoding), seconds)
        elif decoding:
            alone = self._decoding_alone(decoding)
            if alone is not None:
                added = max(0.0, seconds - alone) / prompt_tokens
                self._token_seconds = _average(self._token_seconds, added)
        elif prompt_tokens and self._token_seconds is None:
            self._token_seconds = seconds / prompt_tokens

    def _decoding_alone(self, decoding: int) -> float | None:
        """Of the number of rows that is nearest to this one."""
        if not self._alone:
            return None
        return self._alone[min(self._alone, key=lambda rows: (abs(rows - decoding), rows))]


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + NEW * (new - old)
