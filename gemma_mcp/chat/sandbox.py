"""Jinja for chat templates, which come out of downloaded files: no way out, and bounds on what they can use up.

Jinja's immutable sandbox keeps a template from reaching Python. It does not keep one from looping for hours or from
doubling a string until memory is full, so loop turns and macro calls are counted here, and every operation that makes
strings longer than its operands checks the length first.
"""

from collections.abc import Sized
from datetime import datetime
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = ["MAX_CHARACTERS", "MAX_TURNS", "TemplateRefusalError", "TemplateSandbox"]

MAX_CHARACTERS = 2_000_000
"""Longest string that a template may make, in characters. Gemma 4's longest prompts are about a tenth of it."""

MAX_TURNS = 200_000
"""Loop turns and macro calls of one rendering: a conversation of 10,000 messages needs some 50,000."""

DENIED_METHODS = frozenset({"center", "expandtabs", "format", "format_map", "join", "ljust", "rjust", "zfill"})
DENIED_FILTERS = ("center", "format", "urlize", "wordwrap", "xmlattr")
DENIED_GLOBALS = ("cycler", "joiner", "lipsum")


class TemplateRefusalError(Exception):
    """What a template says with `raise_exception`."""


class Meter(NodeTransformer):
    """Puts a call of `environment.tick` into every loop and macro, and `environment.tilde` in place of `~`."""

    def tick(self, node: nodes.For | nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        return self.tick(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self.tick(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("tilde"), node.nodes, [], None, None)
        return call.set_lineno(node.lineno)


def refuse(message: object) -> NoReturn:
    """The `raise_exception` of chat templates."""
    raise TemplateRefusalError(str(message)[:500])


def now(form: str) -> str:
    """The `strftime_now` of chat templates: the local date and time."""
    return datetime.now().strftime(form[:100])


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """An environment for one template. It counts per rendering, so two threads must not render at once."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"], cache_size=0
        )
        self.turns = 0
        filters = cast("dict[str, object]", self.filters)
        for name in DENIED_FILTERS:
            del filters[name]
        for name in DENIED_GLOBALS:
            del self.globals[name]
        filters |= {"join": self.join, "replace": self.replace}
        self.globals |= {"raise_exception": refuse, "strftime_now": now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        Meter().visit(tree)
        tree.set_environment(self)
        return tree

    def tick(self) -> None:
        """Count a loop turn or a macro call."""
        self.turns += 1
        if self.turns > MAX_TURNS:
            raise SecurityError("it loops without end")

    def tilde(self, *values: object) -> str:
        """The `~` of templates."""
        texts = [str(value) for value in values]
        _bound(sum(map(len, texts)))
        return "".join(texts)

    def join(self, values: Any, d: object = "", attribute: str | None = None) -> str:
        """The `join` filter."""
        items = [self.getattr(value, attribute) if attribute else value for value in values]
        texts = [str(item) for item in items]
        _bound(sum(map(len, texts)) + len(str(d)) * len(texts))
        return str(d).join(texts)

    def replace(self, text: object, old: str, new: str, count: int | None = None) -> str:
        """The `replace` filter and method."""
        source = str(text)
        _bound(len(source) + source.count(old) * len(new))
        return source.replace(old, new, -1 if count is None else count)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on small numbers only; strings and lists grow within bounds."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("it formats with %")
        if operator == "**":
            raise SecurityError("it computes powers")
        sized = [len(cast("Sized", side)) for side in (left, right) if isinstance(side, (str, list, tuple))]
        numbers = [abs(side) for side in (left, right) if isinstance(side, (int, float))]
        _bound(sum(sized) if operator == "+" else max(sized, default=0) * max(int(max(numbers, default=0)), 1))
        if any(number > 2**62 for number in numbers):
            raise SecurityError("it computes with huge numbers")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Jinja's rules, without the string methods that pad or format."""
        if isinstance(obj, str) and attribute in DENIED_METHODS:
            return self.unsafe_undefined(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """The same for `text["name"]`, which falls back to attributes."""
        if isinstance(obj, str) and isinstance(argument, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, argument)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Calls, with `str.replace` bounded."""
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and getattr(obj, "__name__", "") == "replace":
            return self.replace(owner, *args, **kwargs)
        return super().call(context, obj, *args, **kwargs)

    def render(self, template: jinja2.Template, variables: dict[str, object]) -> str:
        """The text, within the bounds. Raises what Jinja raises, TemplateRefusalError and SecurityError."""
        self.turns = 0
        pieces: list[str] = []
        length = 0
        for piece in template.generate(variables):
            length += len(piece)
            _bound(length)
            pieces.append(piece)
        return "".join(pieces)


def _bound(length: int) -> None:
    if length > MAX_CHARACTERS:
        raise SecurityError(f"it makes a text of more than {MAX_CHARACTERS} characters")
