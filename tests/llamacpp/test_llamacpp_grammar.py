"""Grammars and schemas on llama.cpp: what is obeyed, and hostile ones that would hang or kill the process."""

import json
import re
from pathlib import Path

import pytest
from llamacpp_models import SMALL, Load

from gemma_mcp.engine.backend import Executor, ModelSpec, SlotOptions
from gemma_mcp.errors import RequestError
from gemma_mcp.testing.contract_ground import turn
from gemma_mcp.testing.generation import GREEDY, reply, text_of
from gemma_mcp.types import Grammar, Sampling, Text


@pytest.fixture
def executor(load: Load, tiny: Path) -> Executor:
    return load(tiny / "gemma3.gguf", SMALL)


def schema(value: object) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def opened(executor: Executor, grammar: Grammar) -> None:
    executor.open(0, SlotOptions(sampling=GREEDY.sampling, grammar=grammar))


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"enum": [1, 22, 333]},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "ok"],
}


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY.sampling,
        Sampling(temperature=3.0, top_k=0, top_p=1.0, seed=5),
        Sampling(temperature=3.0, top_k=3, seed=5, frequency_penalty=1.0),
        Sampling(temperature=1.0, mirostat=2, seed=5),
        Sampling(temperature=0, dry_multiplier=1.0),
    ],
)
def test_random_weights_write_json_under_a_schema(executor: Executor, sampling: Sampling) -> None:
    options = SlotOptions(sampling=sampling, grammar=schema(PERSON))
    tokens = reply(executor, executor.encode([Text("hello")]), options, limit=200)
    assert tokens[-1].end
    value = json.loads(text_of(tokens))
    assert set(value) == {"name", "age", "ok"}
    assert value["age"] in (1, 22, 333)


@pytest.mark.parametrize(
    "constant", ["C:\\temp", 'say "x"', "a\nb\tc", "\x01\x7f", "é\u2028ß", "\U0001f600", {'"\\': ["\n"]}]
)
def test_constants_are_written_as_they_are_whatever_json_escapes(executor: Executor, constant: object) -> None:
    options = SlotOptions(sampling=GREEDY.sampling, grammar=schema({"const": constant}))
    assert json.loads(text_of(reply(executor, executor.encode([Text("hello")]), options, limit=200))) == constant


def test_names_are_written_as_they_are_whatever_json_escapes(executor: Executor) -> None:
    names = ["a\\b", 'a"b', "a\nb", "é\U0001f600"]
    grammar = schema({"type": "object", "properties": {name: {"const": 1} for name in names}, "required": names})
    options = SlotOptions(sampling=GREEDY.sampling, grammar=grammar)
    value = json.loads(text_of(reply(executor, executor.encode([Text("hello")]), options, limit=200)))
    assert set(value) == set(names)


def test_the_schema_true_means_any_json(executor: Executor) -> None:
    opened(executor, schema(True))


def test_the_starter_may_not_say_more_than_its_grammar(load: Load, starter: ModelSpec) -> None:
    executor = load(starter)
    pieces = executor.encode(turn(Text("What is the capital of France?")))
    options = SlotOptions(
        sampling=GREEDY.sampling, grammar=Grammar("gbnf", 'root ::= "The capital of " [A-Z] [a-z]{3}')
    )
    tokens = reply(executor, pieces, options)
    assert text_of(tokens).startswith("The capital of ")
    assert len(text_of(tokens)) == len("The capital of ") + 4
    assert tokens[-1].end


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a',
        "root ::= missing",
        'other ::= "a"',
        'root ::= root "a" | "b"',
        'root ::= a "x"\na ::= root | "b"',
        'root ::= ("")*',
        'root ::= "a"{100000000}',
        "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000,
        "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(40)) + '\nr40 ::= "a"',
        "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + '\nr40 ::= "a"?',
        'root ::= (("a"?){50} | ("b"?){50}){0,40}',
        'root ::= "' + "x" * 300_000 + '"',
        'root ::= "\0"',
    ],
)
def test_a_hostile_grammar_is_refused_at_once(executor: Executor, text: str) -> None:
    with pytest.raises(RequestError):
        opened(executor, Grammar("gbnf", text))


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a"\r\n',
        'root ::= "a" # said (once',
        'root ::= "(" [()"] ")" | .{2,} "x"+ ("y" | "z")*',
        "root ::= item{3}\n" + 'item ::= "- " [^\\n]+ "\\n"',
        'root ::= ("a" | "b"{100}){100}',
        'root ::= ("a"{1999}){1999}',
    ],
)
def test_an_ordinary_grammar_is_taken(executor: Executor, text: str) -> None:
    opened(executor, Grammar("gbnf", text))


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {"type": "integer"}
    for _ in range(levels):
        value = {"type": "array", "items": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        5,
        False,
        {"not": {}},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"type": "string", "pattern": "^["},
        {"type": "string", "pattern": "unanchored"},
        {"type": "string", "pattern": "^(((a{100}){100}){100})$"},
        {"items": [{"type": "string", "pattern": "^" + "a" * 1001 + "$"}]},
        {"enum": ["x" * 300_000]},
        nested(400),
        {
            "$ref": "#/$defs/a0",
            "$defs": {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
            | {"a40": {"type": "integer"}},
        },
    ],
)
def test_a_hostile_schema_is_refused_at_once(executor: Executor, value: object) -> None:
    with pytest.raises(RequestError):
        opened(executor, schema(value))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "string", "maxLength": 10**9, "minLength": 10**8},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(200)}},
        {"type": "object", "properties": {"maxLength": {"type": "string"}, "enum": {"type": "integer"}}},
        {"const": {"maxLength": 5000}},
        {"type": "string", "pattern": "^[a-z]{2,5}-\\d+$"},
    ],
)
def test_an_ordinary_or_oversized_schema_is_taken(executor: Executor, value: object) -> None:
    opened(executor, schema(value))


def test_a_property_called_like_a_bound_is_kept(executor: Executor) -> None:
    value = {"type": "object", "properties": {"maxItems": {"const": 9999}}, "required": ["maxItems"]}
    options = SlotOptions(sampling=GREEDY.sampling, grammar=schema(value))
    text = text_of(reply(executor, executor.encode([Text("hello")]), options))
    assert json.loads(text) == {"maxItems": 9999}


def test_classes_in_patterns_are_obeyed(executor: Executor) -> None:
    value = {"type": "string", "pattern": "^[\\d]{2}-\\d\\w\\.$"}
    sampling = Sampling(temperature=5.0, top_k=0, top_p=1.0, seed=1)
    options = SlotOptions(sampling=sampling, grammar=schema(value))
    text = text_of(reply(executor, executor.encode([Text("hello")]), options))
    assert re.fullmatch(r"[0-9]{2}-[0-9][A-Za-z0-9_]\.", json.loads(text))
