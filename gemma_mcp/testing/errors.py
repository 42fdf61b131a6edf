"""What every error of this project looks like to whoever reads it, checked in one place."""

import re

from gemma_mcp.errors import GemmaError

__all__ = ["assert_plain", "assert_plain_text"]

LONGEST = 600
"""Characters; an error stands in the context of a client's model."""

INSIDE = re.compile(r"Traceback|pydantic|File \"|0x[0-9a-f]{6,}|errno|<class|object at", re.IGNORECASE)
"""What tells of the program's inside, and is of no use to a reader."""


def assert_plain(error: GemmaError) -> None:
    """The error says in one sentence what happened, and in one or two what to do."""
    assert error.message.endswith("."), error.message
    assert error.hint, f"no hint: {error.message}"
    assert_plain_text(str(error))


def assert_plain_text(text: str, *, hint: bool = True) -> None:
    """The same of an error's text as a tool gives it back: one line, at least two sentences, nothing of the inside.

    Without `hint`, one sentence is enough: what is wrong with an argument says what to do.
    """
    assert "\n" not in text, text
    assert len(text) <= LONGEST, text
    assert not INSIDE.search(text), text
    assert text[-1] in ".)?…`" or text[-1].isalnum(), text
    assert not hint or len(re.findall(r"[.?](?:\s|$)", text)) >= 2 or ": " in text, f"no hint: {text}"
