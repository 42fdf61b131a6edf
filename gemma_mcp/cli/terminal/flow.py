"""Words that stream in, broken into lines where a terminal would cut them in two."""

import re

from prompt_toolkit.utils import get_cwidth

__all__ = ["Flow"]

PIECE = re.compile(r"\n|[^\S\n]+|\S+")
FENCE = re.compile(r"\s*(```|~~~)")
INDENTED = re.compile(r" {4}|\t")


class Flow:
    """Takes pieces of text, gives back what may be shown. The last word waits until its end is known.

    Code, that is what is fenced or indented, is passed on as it is: people copy it.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._word = ""
        self._blank = ""
        self._line = ""
        self._column = 0
        self._fenced = False

    def feed(self, text: str) -> str:
        """What can be shown now."""
        return "".join([self._take(piece) for piece in PIECE.findall(text)])

    def end(self) -> str:
        """What still waits."""
        return self._flush()

    def _take(self, piece: str) -> str:
        if not piece.isspace():
            self._word += piece
            return ""
        shown = self._flush()
        if piece == "\n":
            if FENCE.match(self._line):
                self._fenced = not self._fenced
            self._blank, self._line, self._column = "", "", 0
            return shown + "\n"
        self._blank += piece
        return shown

    def _flush(self) -> str:
        """The word with the blank before it, or with a new line in place of that."""
        if not self._word:
            return ""
        word, blank = self._word, self._blank
        self._word = self._blank = ""
        self._line += blank + word
        width = get_cwidth(word)
        if self._column and self._column + len(blank) + width > self._columns and not self._is_code():
            self._column = width
            return "\n" + word
        self._column += len(blank) + width
        return blank + word

    def _is_code(self) -> bool:
        return self._fenced or bool(INDENTED.match(self._line))
