"""Schemas that are taken and refused, and replies that are checked against them."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gemma_mcp.errors import InvalidReplyError, RequestError
from gemma_mcp.schemas import ReplyValidator, check_schema

OBJECT = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}, "v": {"type": "null"}},
            "required": ["children"],
        }
    },
}


def nested(depth: int) -> Any:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        OBJECT,
        TREE,
        {"enum": ["a", 1, None]},
        {"const": {"a": [1]}},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"type": ["integer", "null"], "description": "either"},
        {"allOf": [{"properties": {"a": {"type": "string"}}}, {"$ref": "#/$defs/B"}], "$defs": {"B": OBJECT}},
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
        {"prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": False},
        {"type": "string", "pattern": "^[A-Z][a-z]*( [0-9]{1,3})?$"},
        {"type": "string", "pattern": "^\\d{4}\\.[\\dA-F\\-]+\\s?\\w*$"},
        {"type": "string", "format": "date"},
        {"format": "uuid"},
        {"additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"not": {"type": "string"}, "enum": {"type": "string"}}},
        nested(10),
    ],
)
def test_an_ordinary_schema_is_taken(schema: object) -> None:
    check_schema(schema)


def test_what_pydantic_writes_is_taken() -> None:
    class Address(BaseModel):
        street: str
        number: int | None = None

    class Person(BaseModel):
        name: str
        addresses: list[Address]

    check_schema(Person.model_json_schema())


REFUSED: list[tuple[object, str]] = [
    (False, "not an object"),
    (None, "not an object"),
    ([], "not an object"),
    ("{}", "not an object"),
    ({"type": "foo"}, "not valid"),
    ({"properties": []}, "not valid"),
    ({"enum": float("nan")}, "not JSON"),
    ({"const": "\ud800"}, "not valid"),
    ({"const": "x" * 70_000}, "65536 are allowed"),
    (nested(40), "nested"),
    (nested(5000), "nested"),
    ({"not": {"type": "string"}}, "keyword 'not'"),
    ({"type": "object", "properties": {"a": {"if": {}, "then": {}}}}, "at properties/a: the keyword 'if'"),
    ({"type": "object", "patternProperties": {"^a$": {}}}, "'patternProperties'"),
    ({"type": "string", "$id": "http://a"}, "'\\$id'"),
    ({"description": "anything"}, "what the value is"),
    ({"type": "object", "properties": {"a": True}}, "true is used as a schema"),
    ({"type": "array", "items": {}}, "'items' does not say"),
    ({"type": "array", "items": True}, "'items' does not say"),
    ({"type": "array", "items": False}, "'items' does not say"),
    ({"enum": []}, "'enum'|not valid"),
    ({"enum": list(range(1001))}, "1 to 1000"),
    ({"type": "string", "maxLength": 2000}, "up to 1000"),
    ({"type": "string", "maxLength": 10**30}, "up to 1000"),
    ({"type": "array", "items": {"type": "string"}, "minItems": 1001}, "up to 1000"),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 2.0}, "whole numbers"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "greater"),
    ({"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(201)}}, "200 properties"),
    ({"prefixItems": [{"type": "string", "maxLength": 900}] * 5}, "4000 times"),
    ({"anyOf": [{"type": "null"}] * 1001}, "1000 are allowed"),
    ({"$ref": "http://localhost/a"}, "not valid"),
    ({"$ref": "#"}, "does not lead"),
    ({"$ref": "#/$defs", "$defs": {}}, "does not lead|not valid"),
    ({"$ref": "#/$defs/none"}, "not valid"),
    ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "back to itself"),
    (
        {
            "$ref": "#/$defs/A",
            "$defs": {
                "A": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/B"}]},
                "B": {"oneOf": [{"$ref": "#/$defs/A"}]},
            },
        },
        "back to itself",
    ),
    ({"$ref": "#/$defs/my_type", "$defs": {"my_type": {"type": "null"}}}, "name that cannot be used"),
    ({"$ref": "#/$defs/string", "$defs": {"string": {"type": "null"}}}, "name that cannot be used"),
    ({"type": "object", "properties": {"$ref": {"type": "string"}}}, "something else than a reference"),
    ({"const": {"$ref": "#/a"}}, "does not lead"),
    ({"allOf": [{"type": "string"}]}, "only objects"),
    ({"type": "string", "allOf": [{"properties": {}}]}, "cannot be joined"),
    ({"allOf": [{"properties": {}}], "properties": {}}, "cannot be joined"),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(schema: object, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        check_schema(schema)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("abc", "begin with"),
        ("^a\\$", "begin with"),
        ("^" + "a" * 300 + "$", "more than 256"),
        ("^(a$", "regular expression|not valid"),
        ("^(?:a)$", "groups of the kind"),
        ("^()$", "groups of the kind"),
        ("^" + "(" * 17 + "a" + ")" * 17 + "$", "nested more than 16"),
        ("^a|$", "empty alternative"),
        ("^(|a)$", "empty alternative"),
        ("^a]$", "stands alone"),
        ("^a}$", "stands alone"),
        ("^a^b$", "stands alone"),
        ("^\\D$", "is not understood"),
        ("^\\\\a$", "not understood"),
        ("^[\\D]$", "not understood in a class"),
        ('^"$', "quotation mark"),
        ('^["]$', "quotation mark"),
        ("^\n$", "control character"),
        ("^a{2000}$", "more than 1000 times"),
        ("^a{,3}$", "does not begin a repetition|nothing to repeat|not valid"),
        ("^a{x}$", "does not begin a repetition|not valid"),
        ("^a+?$", "nothing to repeat"),
    ],
)
def test_a_pattern_that_cannot_steer_a_grammar_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        check_schema({"type": "string", "pattern": pattern})


LEAVES = st.one_of(
    st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array"]).map(lambda t: {"type": t}),
    st.just({}),
    st.lists(st.one_of(st.text(max_size=4), st.integers(), st.none()), min_size=1, max_size=3).map(
        lambda v: {"enum": v}
    ),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
        lambda n: {"type": "string", "minLength": n[0], "maxLength": n[1]}
    ),
    st.text(alphabet="ab0.[](){}|*+?\\^$-,2", max_size=8).map(lambda p: {"type": "string", "pattern": f"^{p}$"}),
    st.sampled_from(["date", "time", "date-time", "uuid", "email"]).map(lambda f: {"format": f}),
    st.just({"$ref": "#/$defs/Leaf"}),
)


def larger(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text(max_size=4)
    return st.one_of(
        st.lists(parts, min_size=1, max_size=3).map(lambda p: {"anyOf": p}),
        st.lists(parts, min_size=1, max_size=3).map(lambda p: {"allOf": p}),
        st.lists(parts, min_size=1, max_size=3).map(lambda p: {"prefixItems": p, "items": False}),
        st.tuples(parts, st.integers(0, 3), st.integers(0, 3)).map(
            lambda p: {"type": "array", "items": p[0], "minItems": p[1], "maxItems": p[2]}
        ),
        st.tuples(st.dictionaries(names, parts, max_size=4), st.one_of(parts, st.booleans())).map(
            lambda p: {"type": "object", "properties": p[0], "additionalProperties": p[1], "required": [*p[0]][:2]}
        ),
    )


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None, max_examples=300)
@given(st.recursive(LEAVES, larger, max_leaves=8))
def test_whatever_is_taken_becomes_a_grammar(schema: dict[str, Any]) -> None:
    llama_grammar = pytest.importorskip("llama_cpp.llama_grammar")
    schema = schema | {"$defs": {"Leaf": {"type": "string"}}}
    try:
        check_schema(schema)
    except RequestError:
        return
    assert "root ::=" in llama_grammar.json_schema_to_gbnf(json.dumps(schema))


def test_a_reply_that_satisfies_its_schema_passes() -> None:
    ReplyValidator(OBJECT).validate(' {"name": "Ada", "age": 36}\n')
    ReplyValidator(TREE).validate('{"children": [{"children": []}]}')
    ReplyValidator(True).validate("[1]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ('{"name": "A', "not JSON: .* at character 9 of 11"),
        ('{"name": "Ada", "age": -1}', r'-1 is less than the minimum of 0 \(at \["age"\]\)'),
        ('{"age": 1}', "required property"),
        ('{"name": "Ada", "x": 1}', "x"),
        ("[]", "whole"),
        ('{"name": "Ada", "age": NaN}', "NaN is no JSON number"),
        ('{"name": "Ada", "age": -Infinity}', "Infinity is no JSON number"),
        ("1" * 5000, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('"\\ud800"', "cannot be checked"),
        ("[" * 900 + "]" * 900, "cannot be checked|not JSON"),
    ],
)
def test_a_reply_that_does_not_is_an_error_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(InvalidReplyError, match=reason):
        ReplyValidator(OBJECT).validate(text)


def test_a_stated_format_is_kept() -> None:
    with pytest.raises(InvalidReplyError, match="date"):
        ReplyValidator({"type": "string", "format": "date"}).validate('"tomorrow"')


@pytest.mark.parametrize("schema", [{"type": "foo"}, {"$ref": "http://localhost/a"}, 3])
def test_a_validator_of_no_schema_is_refused(schema: object) -> None:
    with pytest.raises(RequestError, match="cannot be used"):
        ReplyValidator(schema)
