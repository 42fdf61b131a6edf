"""Turns of a conversation, as the chat template wants them: one role after the other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gemma_mcp.errors import RequestError
from gemma_mcp.types import Media, Text, Tokens

__all__ = ["Message", "Part", "Role", "fold_system", "joined", "merge_turns"]

Role = Literal["system", "user", "assistant"]
Part = Text | Media | Tokens
BLANK_LINE = Text("\n\n")


@dataclass(frozen=True)
class Message:
    """One turn: who speaks, and text and images in the order in which they were given.

    `vocabulary`: the one in which `Tokens` among the parts have their meaning, see wire.ModelCard.
    """

    role: Role
    parts: tuple[Part, ...]
    vocabulary: str = ""

    def for_vocabulary(self, vocabulary: str) -> "Message":
        """The turn as a model of this vocabulary takes it: tokens of another one are text to it."""
        if self.vocabulary == vocabulary:
            return self
        return Message(self.role, tuple(Text(part.text) if isinstance(part, Tokens) else part for part in self.parts))


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same parts with adjacent texts made one, each stripped of white space at its ends, none empty.

    Gemma's own templates strip (`| trim`) every text of a turn. They never see it here, so it is done beforehand.
    Tokens that stand alone stay as they were generated; next to other text they are text.
    """
    runs: list[Part] = []
    for part in parts:
        last = runs[-1] if runs else None
        if not isinstance(part, Media) and last is not None and not isinstance(last, Media):
            runs[-1] = Text(last.text + part.text)
        else:
            runs.append(part)
    stripped = (Text(part.text.strip()) if isinstance(part, Text) else part for part in runs)
    return tuple(part for part in stripped if part != Text(""))


def merge_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbours of one role made one turn, a blank line between them: Gemma was trained on alternating roles.

    Raises RequestError when a system message stands anywhere but first, or when the last turn is not the user's.
    """
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, (*merged[-1].parts, BLANK_LINE, *message.parts))
        else:
            merged.append(message)
    if any(message.role == "system" for message in merged[1:]):
        raise RequestError("A system message stands after other messages.", "Give it first, before all turns.")
    if not merged or merged[-1].role != "user":
        raise RequestError(
            "The conversation does not end with a message of the user.", "Add the message that is to be answered."
        )
    return tuple(Message(message.role, joined(message.parts)) for message in merged)


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The system text put before the first turn with a blank line, as Gemma 3's template does it."""
    if not messages or messages[0].role != "system":
        return tuple(messages)
    system, first, *rest = messages
    if not system.parts:
        return (first, *rest)
    return (Message(first.role, joined((*system.parts, BLANK_LINE, *first.parts))), *rest)
