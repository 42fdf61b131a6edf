"""JSON with comments, read with the place of everything in it, so that a file can be edited and not rewritten.

Accepted: what editors accept in their own files, which is JSON, `//` and `/* */` comments and trailing commas.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

__all__ = ["Comment", "JsoncError", "Member", "Node", "parse"]

DEEPEST = 100
"""Levels of nesting; a configuration has five."""

STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
SPACE = re.compile(r"[ \t\r\n]+")
COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)


class JsoncError(ValueError):
    """What is wrong; `line` and `column` count from 1."""

    def __init__(self, why: str, text: str, position: int) -> None:
        super().__init__(why)
        self.line = text.count("\n", 0, position) + 1
        self.column = position - text.rfind("\n", 0, position)


@dataclass(frozen=True)
class Comment:
    """A comment, from `start` up to `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Node:
    """A value and its text, from `start` up to `end`; `members` in their order if it is an object."""

    value: object
    start: int
    end: int
    members: "tuple[Member, ...] | None" = None

    def member(self, name: str) -> "Member | None":
        """The member of that name; of several the last, which is the one that readers of JSON take."""
        return next((member for member in reversed(self.members or ()) if member.name == name), None)


@dataclass(frozen=True)
class Member:
    """A name and a value of an object; `start` is where the name begins, `comma` where the comma after it stands."""

    name: str
    start: int
    node: Node
    comma: int | None


@dataclass
class _Reader:
    text: str
    at: int = 0
    depth: int = 0
    comments: list[Comment] = field(default_factory=list[Comment])

    def document(self) -> Node:
        self.skip()
        node = self.value()
        self.skip()
        if self.at < len(self.text):
            self.fail("there is more text after the end")
        return node

    def value(self) -> Node:
        if self.depth > DEEPEST:
            self.fail(f"it is nested deeper than {DEEPEST} levels")
        sign = self.text[self.at : self.at + 1]
        if sign == "{":
            return self.object()
        if sign == "[":
            return self.array()
        return self.string() if sign == '"' else self.scalar()

    def object(self) -> Node:
        start, members = self.open(), list[Member]()
        while not self.closes("}"):
            name = self.string()
            self.skip()
            self.expect(":")
            self.skip()
            node = self.value()
            members.append(Member(str(name.value), name.start, node, self.comma("}")))
        self.depth -= 1
        value = {member.name: member.node.value for member in members}
        return Node(value, start, self.at, tuple(members))

    def array(self) -> Node:
        start, items = self.open(), list[object]()
        while not self.closes("]"):
            items.append(self.value().value)
            self.comma("]")
        self.depth -= 1
        return Node(items, start, self.at)

    def string(self) -> Node:
        return self.match(STRING, 'a name or a text in "double quotes" is missing')

    def scalar(self) -> Node:
        return self.match(SCALAR, "a value is missing")

    def match(self, pattern: re.Pattern[str], otherwise: str) -> Node:
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(otherwise)
        try:
            value: object = json.loads(found[0])
        except ValueError:
            self.fail("this is not a text or number of JSON")
        self.at = found.end()
        return Node(value, found.start(), found.end())

    def open(self) -> int:
        start = self.at
        self.at += 1
        self.depth += 1
        self.skip()
        return start

    def closes(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.at):
            return False
        self.at += 1
        return True

    def comma(self, end: str) -> int | None:
        """Where the comma after a value stands; without one, the end must follow."""
        self.skip()
        if self.text.startswith(end, self.at):
            return None
        comma = self.at
        self.expect(",")
        self.skip()
        return comma

    def expect(self, sign: str) -> None:
        if not self.text.startswith(sign, self.at):
            self.fail(f"'{sign}' is missing")
        self.at += 1

    def skip(self) -> None:
        """Go past white space and comments."""
        while found := SPACE.match(self.text, self.at) or COMMENT.match(self.text, self.at):
            if found[0].startswith("/"):
                self.comments.append(Comment(found.start(), found.end()))
            self.at = found.end()

    def fail(self, why: str) -> NoReturn:
        raise JsoncError(why, self.text, min(self.at, len(self.text)))


def parse(text: str) -> tuple[Node, Mapping[int, Comment]]:
    """The document, and its comments by where they end. Raises JsoncError."""
    reader = _Reader(text)
    node = reader.document()
    return node, {comment.end: comment for comment in reader.comments}
