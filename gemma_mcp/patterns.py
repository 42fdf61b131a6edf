"""Which regular expressions a JSON schema may hold here: those that can steer a grammar.

The converter from schemas to grammars knows a small part of the language, takes much of the rest for literal text, and
loops for ever on some mistakes. So what is not certain to work is refused before it gets there.
"""

import re
import string

__all__ = ["MAX_REPEAT", "PatternError", "check_pattern"]

MAX_PATTERN = 256
"""Characters."""

MAX_REPEAT = 1000
"""llama.cpp's grammars grow with each repetition, and fail somewhat below 2,000 (llama.cpp issue 27859)."""

MAX_GROUPS = 16

ESCAPES = frozenset(string.punctuation + "dws") - frozenset('"\\')
"""What may stand behind a backslash; the backend spells these out, in classes too. A quotation mark and a backslash
cannot stand in a JSON string as they are."""

REPEAT = re.compile(r"\{(\d{1,5})(,(\d{0,5}))?\}")


class PatternError(Exception):
    """Why a pattern cannot be used; said in the middle of a sentence."""


def check_pattern(pattern: str) -> int:
    """How often at most its parts repeat, summed up. Raises PatternError for a pattern that cannot steer a grammar."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"it has more than {MAX_PATTERN} characters")
    if len(pattern) < 2 or not pattern.startswith("^") or not pattern.endswith("$") or pattern.endswith("\\$"):
        raise PatternError("it must begin with ^ and end with $")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"it is not a regular expression ({error})") from error
    return _Walk(pattern[1:-1]).all()


class _Walk:
    """Goes through a pattern piece by piece.

    `atom` says whether something stands just before that can repeat, `filled` whether the alternative has anything.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.atom = False
        self.filled = False
        self.depth = 0
        self.repeats = 0

    def all(self) -> int:
        while self.at < len(self.text):
            self.piece(self.text[self.at])
        return self.repeats

    def piece(self, char: str) -> None:
        match char:
            case "[":
                self.bracket()
            case "(":
                self.group()
            case ")" | "|":
                self.bar(char)
            case "*" | "+" | "?" | "{":
                self.repeat(char)
            case "\\":
                self.escape()
            case "]" | "}" | "^" | "$":
                raise PatternError(f"{char!r} stands alone in it; write it as a class, such as [{char}]")
            case _:
                self.literal(char)

    def literal(self, char: str) -> None:
        if ord(char) < 32 or 0xD800 <= ord(char) < 0xE000:
            raise PatternError("it holds a control character")
        if char == '"':
            raise PatternError("it holds a quotation mark, which ends a JSON string")
        self.at += 1
        self.atom = self.filled = True

    def escape(self) -> None:
        char = self.text[self.at + 1 : self.at + 2]
        if char not in ESCAPES:
            raise PatternError(f"\\{char} is not understood in it; write a class, such as [0-9]")
        self.at += 2
        self.atom = self.filled = True

    def group(self) -> None:
        self.depth += 1
        if self.text[self.at + 1 : self.at + 2] in ("?", ")"):
            raise PatternError("groups of the kind (?...) and empty ones are not understood")
        if self.depth > MAX_GROUPS:
            raise PatternError(f"its groups are nested more than {MAX_GROUPS} deep")
        self.at += 1
        self.atom = self.filled = False

    def bar(self, char: str) -> None:
        if not self.filled:
            raise PatternError("it has an empty alternative")
        self.depth -= char == ")"
        self.at += 1
        self.atom = self.filled = char == ")"
        if char == "|" and self.text[self.at : self.at + 1] in ("", "|", ")"):
            raise PatternError("it has an empty alternative")

    def bracket(self) -> None:
        end = self.at + 1
        while end < len(self.text) and self.text[end] != "]":
            if self.text[end] == "\\" and self.text[end + 1 : end + 2] not in ESCAPES:
                raise PatternError(f"\\{self.text[end + 1 : end + 2]} is not understood in a class")
            end += 2 if self.text[end] == "\\" else 1
        body = self.text[self.at + 1 : end]
        if not body.removeprefix("^") or any(ord(char) < 32 or char in '["' for char in body):
            raise PatternError("a class in it is empty or holds [, a quotation mark or a control character")
        self.at = end + 1
        self.atom = self.filled = True

    def repeat(self, char: str) -> None:
        if not self.atom:
            raise PatternError(f"{char!r} has nothing to repeat")
        self.atom = False
        if char != "{":
            self.at += 1
            return
        found = REPEAT.match(self.text, self.at)
        if found is None:
            raise PatternError("'{' does not begin a repetition such as {2,5}")
        most = int(found[3] or found[1])
        if most > MAX_REPEAT:
            raise PatternError(f"it repeats something more than {MAX_REPEAT} times")
        self.repeats += most
        self.at = found.end()
