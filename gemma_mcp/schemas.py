"""JSON schemas that come with requests: which are taken, and whether a finished reply satisfies one.

A schema becomes a grammar that steers decoding (llama.cpp's converter), and the reply is validated afterwards, since
grammars know nothing of numeric bounds and the like. The converter fails or hangs on a good part of JSON Schema, so
`check_schema` refuses at the door what it cannot do, in words that say where and which keyword it was.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn, cast

import jsonschema_rs

from gemma_mcp.errors import InvalidReplyError, RequestError
from gemma_mcp.patterns import MAX_REPEAT, PatternError, check_pattern

__all__ = ["ReplyValidator", "check_schema"]

MAX_BYTES = 64 << 10
MAX_DEPTH = 32
MAX_PARTS = 1000
MAX_CHOICES = 1000
MAX_PROPERTIES = 200
"""Of one object: the grammar holds a rule for each optional one and all that may follow it."""

MAX_REPEATS = 4000
"""Sum of all repetitions of a schema, each of which is a piece of the grammar."""

REFUSED = frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "contains",
        "patternProperties",
        "propertyNames",
        "dependentSchemas",
        "unevaluatedItems",
        "unevaluatedProperties",
        "$dynamicRef",
        "$dynamicAnchor",
        "$anchor",
        "$id",
        "$schema",
    ]
)
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
TABLES = ("properties", "$defs", "definitions")
FORMATS = frozenset({"date", "time", "date-time", "uuid"})
SAYS_WHAT = (
    "$ref",
    "oneOf",
    "anyOf",
    "allOf",
    "const",
    "enum",
    "type",
    "properties",
    "items",
    "prefixItems",
    "pattern",
)
DEFINITION = re.compile(r"[A-Za-z0-9-]+")
RESERVED = frozenset(
    [
        "root",
        "space",
        "dot",
        "object",
        "array",
        "value",
        "string",
        "number",
        "integer",
        "boolean",
        "null",
        "char",
        "integral-part",
        "decimal-part",
        "uuid",
        "date",
        "time",
        "date-time",
        "date-string",
        "time-string",
        "date-time-string",
    ]
)
"""Names that the grammar's own rules have."""

Node = Mapping[str, object]


def check_schema(schema: object) -> None:
    """Refuse a schema that is invalid, hostile, too large, or beyond what can steer decoding.

    Taken are `True` (any JSON) and objects that are a JSON Schema of 2020-12. References are taken within the schema,
    to definitions with plain names, recursive ones too. Raises RequestError with the place and the reason.
    """
    if schema is True:
        return
    if not isinstance(schema, dict):
        raise _refusal("", "it is not an object")
    root = {key: value for key, value in cast("dict[str, object]", schema).items() if key != "$schema"}
    _check_size(root)
    _validator(root)
    parts = dict(_parts(root))
    if len(parts) > MAX_PARTS:
        raise _refusal("", f"it has {len(parts)} parts, and {MAX_PARTS} are allowed")
    if sum(_check_part(where, part) for where, part in parts.items()) > MAX_REPEATS:
        raise _refusal("", f"it repeats things more than {MAX_REPEATS} times in all")
    _check_references(root, parts)


class ReplyValidator:
    """Whether a text is JSON that satisfies a schema; `format` is checked too, since the request asked for it.

    Nothing is fetched, and regular expressions run in linear time. Raises RequestError for what is not a schema.
    """

    def __init__(self, schema: object) -> None:
        if isinstance(schema, dict):
            schema = {key: value for key, value in cast("dict[str, object]", schema).items() if key != "$schema"}
        elif not isinstance(schema, bool):
            raise _refusal("", "it is not an object")
        self._validator = _validator(schema)

    def validate(self, text: str) -> None:
        """Raises InvalidReplyError, with the position in the text or the place in the JSON, when it does not."""
        try:
            value: object = json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise InvalidReplyError(
                f"The reply is not JSON: {error.msg} at character {error.pos} of {len(text)}.",
                "Raise max_tokens if it was cut off, or simplify the schema.",
            ) from error
        except (ValueError, RecursionError) as error:
            raise InvalidReplyError(f"The reply is not JSON: {_short(error)}.", "Try again.") from error
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            place = "".join(f"[{json.dumps(step)}]" for step in error.instance_path) or "the whole"
            raise InvalidReplyError(
                f"The reply does not satisfy the schema: {error.message[:300]} (at {place[:200]}).",
                "Try again, or describe in the prompt what the schema wants.",
            ) from error
        except ValueError as error:
            raise InvalidReplyError(f"The reply cannot be checked: {_short(error)}.", "Try again.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _retrieve_nothing(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is outside of the schema, and nothing is fetched")


def _validator(schema: dict[str, object] | bool) -> jsonschema_rs.Draft202012Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            schema,
            validate_formats=True,
            retriever=_retrieve_nothing,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20),
        )
    except jsonschema_rs.ValidationError as error:
        where = "/".join(map(str, error.instance_path))
        raise _refusal(where, f"it is not valid: {error.message[:300]}") from error
    except ValueError as error:
        raise _refusal("", f"it is not valid: {_short(error)}") from error


def _check_size(root: Node) -> None:
    if _depth(root) > MAX_DEPTH:
        raise _refusal("", f"it is nested more than {MAX_DEPTH} deep")
    try:
        size = len(json.dumps(root, allow_nan=False, ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise _refusal("", f"it is not JSON: {_short(error)}") from error
    if size > MAX_BYTES:
        raise _refusal("", f"it has {size} characters, and {MAX_BYTES} are allowed")


def _depth(root: object) -> int:
    """Levels of nesting, counted without recursion and no further than the limit."""
    level: list[object] = [root]
    depth = 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [child for value in level for child in _children(value)]
    return depth


def _children(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else ()


def _parts(node: object, where: str = "") -> Iterator[tuple[str, Node]]:
    """The schema and all schemas in it, by their JSON pointer without the first slash."""
    if not isinstance(node, dict):
        raise _refusal(where, f"{json.dumps(node)} is used as a schema", "Write {} for anything.")
    node = cast("dict[str, object]", node)
    yield where, node
    start = f"{where}/" if where else ""
    for key in LISTS:
        for number, child in enumerate(cast("list[object]", node.get(key, []))):
            yield from _parts(child, f"{start}{key}/{number}")
    for key in TABLES:
        for name, child in cast("dict[str, object]", node.get(key, {})).items():
            yield from _parts(child, f"{start}{key}/{name}")
    for key in ("items", "additionalProperties"):
        if key in node and not isinstance(node[key], bool):
            yield from _parts(node[key], f"{start}{key}")


def _check_part(where: str, part: Node) -> int:
    """Refuse what cannot be done here; the number of repetitions that this part asks for."""
    for keyword in part:
        if keyword in REFUSED:
            raise _refusal(where, f"the keyword {keyword!r} cannot be used here")
    if part and not _says_what(part):
        raise _refusal(where, "it does not say what the value is", 'Add a "type".')
    if part.get("items") in ({}, True) or (part.get("items") is False and "prefixItems" not in part):
        raise _refusal(where, "'items' does not say what the items are", "Leave it out for any items.")
    choices = part.get("enum")
    if isinstance(choices, list) and not 0 < len(cast("list[object]", choices)) <= MAX_CHOICES:
        raise _refusal(where, f"'enum' must have 1 to {MAX_CHOICES} values")
    if len(cast("Node", part.get("properties", {}))) > MAX_PROPERTIES:
        raise _refusal(where, f"it has more than {MAX_PROPERTIES} properties")
    return (
        _check_all_of(where, part)
        + _repeats(where, part, "Items")
        + _repeats(where, part, "Length")
        + _pattern(where, part)
    )


def _says_what(part: Node) -> bool:
    closed = part.get("additionalProperties", True) is not True
    return closed or any(key in part for key in SAYS_WHAT) or part.get("format") in FORMATS


def _check_all_of(where: str, part: Node) -> int:
    """`allOf` can join the properties of objects, and nothing else."""
    if "allOf" not in part:
        return 0
    beside = set(part) & {"properties", "additionalProperties", "items", "prefixItems", "pattern"}
    members = cast("list[Node]", part["allOf"])
    if beside or part.get("type", "object") != "object":
        raise _refusal(where, "'allOf' stands beside keywords that it cannot be joined with", "Join them by hand.")
    for member in members:
        if "properties" not in member and "$ref" not in member:
            raise _refusal(where, "'allOf' can join only objects with properties", "Join them by hand.")
    return 0


def _repeats(where: str, part: Node, what: str) -> int:
    low, high = part.get(f"min{what}", 0), part.get(f"max{what}")
    for value in (low, 0 if high is None else high):
        if not isinstance(value, int) or value > MAX_REPEAT:
            raise _refusal(where, f"'min{what}' and 'max{what}' must be whole numbers up to {MAX_REPEAT}")
    if isinstance(high, int) and isinstance(low, int) and low > high:
        raise _refusal(where, f"'min{what}' is greater than 'max{what}'")
    return max(value for value in (low, high, 0) if isinstance(value, int))


def _pattern(where: str, part: Node) -> int:
    pattern = part.get("pattern")
    if not isinstance(pattern, str):
        return 0
    try:
        return check_pattern(pattern)
    except PatternError as error:
        raise _refusal(where, f"the pattern {pattern[:80]!r} cannot be used: {error}") from error


def _check_references(root: Node, parts: Mapping[str, Node]) -> None:
    """References must lead to a part of this schema, by a name that a grammar's rule can have, and not in a circle."""
    targets: dict[str, str] = {}
    for holder in _dictionaries(root):
        if "$ref" not in holder:
            continue
        reference = holder["$ref"]
        if not isinstance(reference, str):
            raise _refusal("", "'$ref' is used as something else than a reference")
        where = reference.removeprefix("#/")
        name = where.rpartition("/")[2]
        if not reference.startswith("#/") or where not in parts:
            raise _refusal(
                "", f"'$ref' {reference[:200]!r} does not lead to a part of this schema", "Use #/$defs/Name."
            )
        if not DEFINITION.fullmatch(name) or name in RESERVED or targets.setdefault(name, where) != where:
            raise _refusal(
                "",
                f"'$ref' {reference[:200]!r} ends in a name that cannot be used",
                "Use letters and digits, each name once.",
            )
    for where in parts:
        _check_loop(where, parts)


def _check_loop(start: str, parts: Mapping[str, Node]) -> None:
    """A part that means itself without anything in between would be a grammar without a beginning."""
    seen: set[str] = set()
    waiting = list(_same_place(start, parts))
    while waiting:
        where = waiting.pop()
        if where == start:
            raise _refusal(start, "its '$ref' leads back to itself")
        if where not in seen:
            seen.add(where)
            waiting += _same_place(where, parts)


def _same_place(where: str, parts: Mapping[str, Node]) -> Iterator[str]:
    """The parts that describe the very value that this part describes."""
    part = parts[where]
    if isinstance(part.get("$ref"), str):
        yield str(part["$ref"]).removeprefix("#/")
    for key in ("anyOf", "oneOf", "allOf"):
        for number in range(len(cast("list[object]", part.get(key, [])))):
            yield f"{where}/{key}/{number}".removeprefix("/")


def _dictionaries(value: object) -> Iterator[Node]:
    children = _children(value)
    if isinstance(value, dict):
        yield cast("Node", value)
    for child in children:
        yield from _dictionaries(child)


def _refusal(where: str, why: str, hint: str = "Simplify the schema.") -> RequestError:
    place = f" at {where[:200]}" if where else ""
    return RequestError(f"The JSON schema cannot be used{place}: {why}.", hint)


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
