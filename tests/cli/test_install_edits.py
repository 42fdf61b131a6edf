"""Entries are put into texts and taken out again; every other byte stays."""

import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_mcp.cli.installation.edits import inserted, removed
from gemma_mcp.cli.installation.jsonc import DEEPEST, JsoncError, parse

PATH = ("servers", "gemma")
ENTRY: dict[str, Any] = {"command": "/a b/python", "args": ["-m", "gemma_mcp"], "env": {"K": 'ü"\\'}}

FILLERS = ["", "", " ", "\n", "\n  ", "\r\n\t", " // it's {\n", "/* [\n */", " /**/ ", "\n// x\r\n  ", "\n\n"]
NAMES = ["a", "b b", 'q"', "gemma2", "ä", "//", ""]


@st.composite
def texts(draw: st.DrawFn, depth: int = 0) -> str:
    """A value of JSON with comments and trailing commas, in any layout."""
    kind = draw(st.sampled_from(["scalar", "object", "array"])) if depth < 3 else "scalar"
    if kind == "scalar":
        value: object = draw(
            st.none() | st.booleans() | st.integers() | st.sampled_from([1.5, "x", "// no", "}{", "é"])
        )
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    if kind == "array":
        return draw(sequence("[", "]", [draw(texts(depth + 1)) for _ in range(draw(st.integers(0, 2)))]))
    return draw(objects(depth + 1, {}))


@st.composite
def objects(draw: st.DrawFn, depth: int, fixed: dict[str, str]) -> str:
    """An object with the fixed members among others."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    members = [(name, draw(texts(depth))) for name in names] + list(fixed.items())
    written = [
        f"{json.dumps(name)}{draw(st.sampled_from(FILLERS))}:{draw(st.sampled_from(FILLERS))}{text}"
        for name, text in draw(st.permutations(members))
    ]
    return draw(sequence("{", "}", written))


@st.composite
def sequence(draw: st.DrawFn, begin: str, end: str, items: list[str]) -> str:
    """Items between brackets, with anything that may stand around them."""
    fill = st.sampled_from(FILLERS)
    body = ",".join(f"{draw(fill)}{item}{draw(fill)}" for item in items)
    trailing = "," + draw(fill) if items and draw(st.booleans()) else ""
    return f"{begin}{body or draw(fill)}{trailing}{end}"


@st.composite
def documents(draw: st.DrawFn, *, servers: bool) -> str:
    """A file, which holds `servers` or not."""
    fixed = {"servers": draw(objects(2, {}))} if servers else {}
    return draw(st.sampled_from(FILLERS)) + draw(objects(1, fixed)) + draw(st.sampled_from(FILLERS))


def value_of(text: str) -> dict[str, Any]:
    return cast("dict[str, Any]", parse(text)[0].value)


def comments_of(text: str) -> list[str]:
    return [text[comment.start : comment.end] for comment in parse(text)[1].values()]


def is_blank(text: str) -> bool:
    """Whether the servers' object holds nothing, not even a comment."""
    member = parse(text)[0].member("servers")
    assert member is not None
    return not text[member.node.start + 1 : member.node.end - 1].strip()


def refusal_of(text: str) -> JsoncError | None:
    try:
        parse(text)
    except JsoncError as error:
        return error
    return None


@settings(deadline=None)
@given(documents(servers=True))
def test_an_entry_comes_and_goes_and_all_else_stays(text: str) -> None:
    after = inserted(text, PATH, ENTRY)
    assert value_of(after) == {**value_of(text), "servers": {**value_of(text)["servers"], "gemma": ENTRY}}
    assert comments_of(after) == comments_of(text)
    back = removed(after, PATH)
    assert value_of(back) == value_of(text)
    assert comments_of(back) == comments_of(text)
    if not is_blank(text):
        assert back == text


@settings(deadline=None)
@given(documents(servers=False))
def test_a_file_without_servers_gets_them(text: str) -> None:
    after = inserted(text, PATH, ENTRY)
    assert value_of(after) == {**value_of(text), "servers": {"gemma": ENTRY}}
    assert comments_of(after) == comments_of(text)
    assert value_of(removed(after, PATH)) == {**value_of(text), "servers": {}}


@settings(deadline=None)
@given(st.data())
def test_an_entry_among_others_is_taken_out_alone(data: st.DataObject) -> None:
    text = data.draw(objects(1, {"servers": data.draw(objects(2, {"gemma": data.draw(texts(2))}))}))
    expected = value_of(text)
    del expected["servers"]["gemma"]
    after = removed(text, PATH)
    assert value_of(after) == expected
    servers = parse(text)[0].member("servers")
    assert servers is not None
    gemma = servers.node.member("gemma")
    assert gemma is not None
    outside = [one for one in parse(text)[1].values() if not gemma.start < one.start < gemma.node.end]
    assert comments_of(after) == [text[one.start : one.end] for one in outside]


@settings(deadline=None)
@given(st.data())
def test_an_entry_is_replaced_where_it_stands(data: st.DataObject) -> None:
    text = data.draw(objects(1, {"servers": data.draw(objects(2, {"gemma": "17"}))}))
    after = inserted(text, PATH, "18")
    assert after == inserted(inserted(text, PATH, ENTRY), PATH, "18")
    assert value_of(after)["servers"]["gemma"] == "18"
    assert len(after) == len(text) + 2


@settings(deadline=None)
@given(texts())
def test_what_is_strict_json_reads_as_json_does(text: str) -> None:
    try:
        expected: object = json.loads(text)
    except ValueError:
        return
    assert parse(text)[0].value == expected


@settings(deadline=None)
@given(st.text(alphabet='{}[]:,"/*\\ \n1ea-x.', max_size=12))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        expected: object = json.loads(text)
    except ValueError:
        error = refusal_of(text)
        assert error is None or (1 <= error.line <= text.count("\n") + 1 and error.column >= 1)
    else:
        assert parse(text)[0].value == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", '{\n  "servers": {\n    "gemma": 1\n  }\n}'),
        ('{"a":1}', '{"a":1,"servers":{"gemma":1}}'),
        ('{ "a": 1 }', '{ "a": 1, "servers": {"gemma": 1} }'),
        ('{\n\t"a": 1 // note\n}\n', '{\n\t"a": 1, // note\n\t"servers": {\n\t\t"gemma": 1\n\t}\n}\n'),
        ('{\r\n    "a": 1,\r\n}', '{\r\n    "a": 1,\r\n    "servers": {\r\n        "gemma": 1\r\n    },\r\n}'),
        ('{\n  "servers": {}\n}', '{\n  "servers": {\n    "gemma": 1\n  }\n}'),
        ('{\n  "servers": {\n    // none\n  }\n}', '{\n  "servers": {\n    // none\n    "gemma": 1\n  }\n}'),
    ],
)
def test_an_entry_is_written_the_way_the_file_is(before: str, after: str) -> None:
    assert inserted(before, PATH, 1) == after


def test_of_a_name_that_stands_twice_nothing_is_left() -> None:
    text = '{"servers": {"gemma": 1, "x": 2, "gemma": 3}}'
    assert removed(text, PATH) == '{"servers": { "x": 2}}'


@pytest.mark.parametrize(
    "text", ["", "{", "{]", '{"a" 1}', '{"a": 1 "b": 2}', "{} {}", "{,}", "[1,,2]", "{'a': 1}", '{"a": \n x}', "/* {}"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(JsoncError):
        parse(text)


def test_nesting_without_end_is_refused() -> None:
    parse("[" * DEEPEST + "]" * DEEPEST)
    with pytest.raises(JsoncError, match="nested deeper"):
        parse("[" * 10**5)
