"""From token bytes to text that may be shown: incremental UTF-8, and stop strings that never leak."""

import codecs
from collections.abc import Sequence

__all__ = ["TextAssembler"]


class TextAssembler:
    """Takes token bytes, gives back text as soon as it is certain to belong to the reply.

    Held back are bytes of an unfinished character and any text that could still become a stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    @property
    def holding(self) -> bool:
        """Whether a stop string may have begun."""
        return bool(self._stop and (self._held or self._decoder.getstate()[0]))

    def push(self, piece: bytes) -> str:
        """The text that has become certain. After a stop string was met, `stopped` is true and nothing follows."""
        if not self._stop:  # the way of nearly every token
            return self._decoder.decode(piece)
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece)
        end = self._first_stop()
        if end >= 0:
            self.stopped = True
            return self._release(end)
        return self._release(len(self._held) - self._longest_start())

    def flush(self) -> str:
        """What is still held back, at the end of the reply. Bytes of an unfinished character are dropped."""
        self._decoder.reset()
        return "" if self.stopped else self._release(len(self._held))

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text

    def _first_stop(self) -> int:
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        return min(found, default=-1)

    def _longest_start(self) -> int:
        """Length of the longest end of the held text that is the start of a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
