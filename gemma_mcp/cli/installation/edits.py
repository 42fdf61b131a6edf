"""Put a member into an object of a JSON text, or take it out; every other byte of the text stays.

What `removed` does after `inserted` gives the text back as it was, but for an object that held nothing but white space.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gemma_mcp.cli.installation.jsonc import Comment, Member, Node, parse

__all__ = ["inserted", "removed"]

INDENT = "  "
"""Where a text shows none of its own."""

AFTER = re.compile(r"[ \t]*(?=//|/\*)")
"""Blanks before a comment on the same line."""

LINE_END = re.compile(r"[ \t]*(?:\r?\n|$)")


@dataclass(frozen=True)
class _Text:
    """A parsed text."""

    text: str
    root: Node
    comments: Mapping[int, Comment]

    @classmethod
    def of(cls, text: str) -> "_Text":
        return cls(text, *parse(text))

    @property
    def newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    @property
    def unit(self) -> str:
        """The indentation of the first level."""
        first = next(iter(self.root.members or ()), None)
        return (self.indent(first.start) if first else "") or INDENT

    def indent(self, position: int) -> str:
        """The white space that begins the line of `position`."""
        start = self.text.rfind("\n", 0, position) + 1
        line = self.text[start:position]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def is_spread(self, node: Node) -> bool:
        """Whether members stand on lines of their own. An empty object does as the root does."""
        if node.members:
            return "\n" in self.text[node.start : node.members[0].start]
        return not self.root.members or self.is_spread(self.root)

    def before(self, position: int) -> int:
        """Where the white space before `position` begins."""
        return len(self.text[:position].rstrip(" \t\r\n"))

    def end_of_line_comments(self, position: int) -> int:
        """The end of the comments that follow `position` on its line."""
        while found := AFTER.match(self.text, position):
            comment = next(one for one in self.comments.values() if one.start == found.end())
            if "\n" in self.text[comment.start : comment.end]:
                break
            position = comment.end
        return position


def inserted(text: str, path: tuple[str, ...], value: object) -> str:
    """The text with `value` at `path`: replaced where there is one, else the last member of its object.

    Objects on the way are made. Raises JsoncError, and TypeError if something on the way is no object.
    """
    parsed, node = _Text.of(text), None
    for depth, name in enumerate(path):
        node = parsed.root if node is None else node
        if node.members is None:
            raise TypeError(".".join(path[:depth]) or "the whole")
        member = node.member(name)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _with_member(parsed, node, name, value)
        node = member.node
    assert node is not None
    return text[: node.start] + _dump(parsed, value, parsed.indent(node.start)) + text[node.end :]


def removed(text: str, path: tuple[str, ...]) -> str:
    """The text without the member at `path`, which is there. Raises JsoncError."""
    parsed = _Text.of(text)
    node = parsed.root
    for name in path[:-1]:
        member = node.member(name)
        assert member is not None
        node = member.node
    while (member := node.member(path[-1])) is not None:  # a name may stand there twice
        parsed = _Text.of(_without_member(parsed, node, member))
        node = parsed.root
        for name in path[:-1]:
            inner = node.member(name)
            assert inner is not None
            node = inner.node
    return parsed.text


def _with_member(parsed: _Text, node: Node, name: str, value: object) -> str:
    spread = parsed.is_spread(node)
    own = parsed.indent(node.start)
    indent = parsed.indent(node.members[0].start) if node.members and spread else own + parsed.unit
    dumped = _dump(parsed, value, indent) if spread else _dump_inline(parsed, value)
    written = f"{json.dumps(name, ensure_ascii=False)}:{' ' if spread or _is_airy(parsed) else ''}{dumped}"
    lead = f"{parsed.newline}{indent}" if spread else ""
    if not node.members:
        return _into_empty(parsed, node, lead + written, parsed.newline + own if spread else "")
    return _after_last(parsed, node.members[-1], lead or (" " if _is_airy(parsed) else ""), written, spread)


def _into_empty(parsed: _Text, node: Node, written: str, end: str) -> str:
    text, last = parsed.text, parsed.before(node.end - 1)
    if last == node.start + 1:  # nothing in it but white space
        return text[:last] + written + end + text[node.end - 1 :]
    comment = parsed.comments[last]
    line = "" if "\n" in written or not text[comment.start :].startswith("//") else parsed.newline
    return text[:last] + line + written + text[last:]


def _after_last(parsed: _Text, last: Member, lead: str, written: str, spread: bool) -> str:
    text = parsed.text
    end = last.node.end if last.comma is None else last.comma + 1
    place = parsed.end_of_line_comments(end) if spread else end
    if last.comma is not None:
        return text[:place] + lead + written + "," + text[place:]
    return text[:end] + "," + text[end:place] + lead + written + text[place:]


def _without_member(parsed: _Text, node: Node, member: Member) -> str:
    """Comments around the member stay: they are the user's."""
    text, members = parsed.text, node.members or ()
    end = member.node.end
    rest = text[end:] if member.comma is None else text[end : member.comma] + text[member.comma + 1 :]
    place = parsed.before(member.start)
    comment = parsed.comments.get(place)
    if comment and text.startswith("//", comment.start) and not LINE_END.match(rest):
        place = member.start  # what follows must not become part of the comment
    head = text[:place]
    number = members.index(member)
    if member.comma is None and number:
        comma = members[number - 1].comma
        assert comma is not None
        head = head[:comma] + head[comma + 1 :]
    if len(members) == 1 and len(head) == node.start + 1:
        rest = rest.lstrip(" \t\r\n") if rest.lstrip(" \t\r\n").startswith("}") else rest
    return head + rest


def _is_airy(parsed: _Text) -> bool:
    """Whether a text on one line has a blank after its colons."""
    members = parsed.root.members or ()
    return not members or parsed.text[members[0].node.start - 1] == " "


def _dump(parsed: _Text, value: object, indent: str) -> str:
    text = json.dumps(value, indent=parsed.unit, ensure_ascii=False)
    return text.replace("\n", parsed.newline + indent)


def _dump_inline(parsed: _Text, value: object) -> str:
    separators = (", ", ": ") if _is_airy(parsed) else (",", ":")
    return json.dumps(value, ensure_ascii=False, separators=separators)
