"""How hard a grammar is, found out from its text before llama.cpp sees it: some small ones would take it for ever.

Wherever a grammar stands, llama.cpp holds every way to the next character. Rules that name one another twice double the
ways at each level; thirty levels are a billion. So the ways are counted here first.
"""

import re
from dataclasses import dataclass, field

__all__ = ["TooHardError", "check_effort"]

MAX_BYTES = 200_000
"""The parser recurses and its rules grow with the text; more than this is not a grammar but an attack."""

MAX_NESTING = 300
"""llama.cpp's parser uses the C stack for nested parentheses; a repeated item of a schema nests one for each time."""

MAX_WAYS = 100_000
"""Ways to the next character that may be held at once; each costs some tens of nanoseconds and bytes a token."""

_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|\s+) | (?P<terminal>"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\.|!?<[^>\n]*>)
    | (?P<times>[*+?]|\{[\d,\s]*\}) | (?P<mark>::=|[|()]) | (?P<name>[A-Za-z0-9-]+) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


class TooHardError(Exception):
    """Why a grammar is not even tried."""


@dataclass(frozen=True)
class _Ways:
    """In how many ways something can begin with a character, and in how many it can be empty."""

    lead: int
    null: int


@dataclass(frozen=True)
class _Item:
    """A terminal, the name of a rule, or a group; `least` to `most` times."""

    name: str | None = None
    group: list[list["_Item"]] | None = None
    least: int = 1
    most: int = 1


_Choice = list[list[_Item]]


def check_effort(text: str) -> None:
    """Raise TooHardError for a grammar that llama.cpp might not get through. What does not parse is left to it."""
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        raise TooHardError(f"it has {size} bytes, more than {MAX_BYTES}")
    try:
        ways = _Counter(_rules(text))
        for name in _bottom_up(ways.rules):
            ways.rule(name)
    except RecursionError:
        raise TooHardError("its rules nest too deeply") from None


@dataclass
class _Counter:
    rules: dict[str, _Choice]
    known: dict[str, _Ways] = field(default_factory=dict[str, _Ways])

    def rule(self, name: str) -> _Ways:
        if name not in self.known:
            self.known[name] = _Ways(0, 0)  # when it is met again below: left recursion is refused by llama.cpp itself
            self.known[name] = self.choice(self.rules.get(name, []))
        return self.known[name]

    def choice(self, choice: _Choice) -> _Ways:
        found = [self.sequence(sequence) for sequence in choice]
        return _limited(sum(ways.lead for ways in found), sum(ways.null for ways in found))

    def sequence(self, sequence: list[_Item]) -> _Ways:
        """Counted from the end, so that every place in the sequence is checked as well."""
        rest = _Ways(0, 1)
        for item in reversed(sequence):
            rest = _then(self.item(item), rest)
        return rest

    def item(self, item: _Item) -> _Ways:
        one = _Ways(1, 0)
        if item.group is not None:
            one = self.choice(item.group)
        elif item.name is not None:
            one = self.rule(item.name)
        if one.null == 0:
            return _Ways(one.lead if item.most else 0, int(item.least == 0))
        many = _Ways(0, 1)
        for _ in range(min(item.most, MAX_WAYS)):
            many = _then(one, many)
        return _limited(many.lead, many.null + int(item.least == 0))


def _bottom_up(rules: dict[str, _Choice]) -> list[str]:
    """The rules, each after those that it names: a schema with many properties makes a long chain of them."""
    order: dict[str, None] = {}
    seen: set[str] = set()
    stack = [(name, False) for name in rules]
    while stack:
        name, done = stack.pop()
        if done:
            order[name] = None
        elif name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack.extend((named, False) for named in _names(rules.get(name, [])))
    return list(order)


def _names(choice: _Choice) -> list[str]:
    found: list[str] = []
    for sequence in choice:
        for item in sequence:
            found += _names(item.group) if item.group is not None else [item.name] if item.name is not None else []
    return found


def _then(first: _Ways, rest: _Ways) -> _Ways:
    return _limited(first.lead + first.null * rest.lead, first.null * rest.null)


def _limited(lead: int, null: int) -> _Ways:
    if lead > MAX_WAYS or null > MAX_WAYS:
        raise TooHardError(f"it can go on in more than {MAX_WAYS} ways at once")
    return _Ways(lead, null)


def _rules(text: str) -> dict[str, _Choice]:
    tokens = [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(text) if match.lastgroup != "skip"]
    starts = [index for index in range(len(tokens) - 1) if tokens[index][0] == "name" and tokens[index + 1][1] == "::="]
    ends = [*starts[1:], len(tokens)]
    return {tokens[start][1]: _parse(tokens[start + 2 : end]) for start, end in zip(starts, ends, strict=False)}


def _parse(tokens: list[tuple[str, str]]) -> _Choice:
    """The alternatives of a rule; open groups stand on a stack, innermost last."""
    stack: list[_Choice] = [[[]]]
    for kind, text in tokens:
        last = stack[-1][-1]
        if text == "(":
            stack.append([[]])
            if len(stack) > MAX_NESTING:
                raise TooHardError(f"it nests more than {MAX_NESTING} parentheses")
        elif text == ")" and len(stack) > 1:
            group = stack.pop()
            stack[-1][-1].append(_Item(group=group))
        elif text == "|":
            stack[-1].append([])
        elif kind == "times" and last:
            least, most = _bounds(text)
            last[-1] = _Item(last[-1].name, last[-1].group, least, most)
        elif kind in ("name", "terminal"):
            last.append(_Item(name=text if kind == "name" else None))
    return stack[0]


def _bounds(text: str) -> tuple[int, int]:
    """How often; no upper end counts as one more, for llama.cpp makes a rule of its own of the rest."""
    if not text.startswith("{"):
        return {"*": (0, 1), "+": (1, 1), "?": (0, 1)}[text]
    low, _, high = text[1:-1].partition(",")
    least = int(low) if low.strip().isdigit() else 0
    if "," not in text:
        return least, least
    return least, int(high) if high.strip().isdigit() else least + 1
