"""What the tools' arguments have in common: bounded types, what they publish, and one sentence for what does not fit.

Types are strict: the text "5" is not a number. Two leniencies, because clients do this: an argument that is null
counts as left out, and a list may come as JSON text.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from gemma_mcp.errors import RequestError

__all__ = [
    "NOT_BLANK",
    "Arguments",
    "Detail",
    "FileList",
    "ImageList",
    "JsonSchema",
    "MaxSeconds",
    "MaxTokens",
    "ModelName",
    "SystemText",
    "parse_arguments",
    "published_schema",
]

LONGEST_SHOWN = 40
"""Characters of a wrong value that an error repeats."""

MOST_SENTENCES = 3
"""Faults that one error lists; the rest come up when these are mended."""

ModelName = Annotated[
    str | None,
    Field(min_length=1, max_length=1000, description="Model to use; leave it out for the configured one."),
]
NOT_BLANK = r"\S"
SystemText = Annotated[
    str | None,
    Field(pattern=NOT_BLANK, description="System instruction: role, rules, output format."),
]
MaxTokens = Annotated[
    int | None,
    Field(ge=1, le=1_000_000, description="Most tokens of the reply. The result says when this cut it off."),
]
MaxSeconds = Annotated[
    float | None,
    Field(
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds after which the text so far is given back. The default, 50, is less than the 60 "
        "after which many clients give up.",
    ),
]
FileList = Annotated[
    list[Annotated[str, Field(min_length=1)]] | None,
    Field(
        description="What to read into the prompt, relative to the project folder: files 'src/app.py', lines "
        "'src/app.py:10-80', patterns 'src/**/*.py' (without what .gitignore leaves out), changes 'git:diff', "
        "'git:diff --staged', 'git:diff main..HEAD', 'git:diff -- src', earlier versions 'git:show HEAD~1:src/app.py'. "
        "Pass these instead of pasting contents: the text then never enters your context."
    ),
]
ImageList = list[Annotated[str, Field(min_length=1)]]
Detail = Literal["low", "auto", "high"]
JsonSchema = Annotated[
    dict[str, Any] | str | None,
    Field(
        description="JSON Schema (an object, or its JSON text) that the reply must satisfy. The reply is then JSON and "
        "nothing else; one that does not validate is an error."
    ),
]


class Arguments(BaseModel):
    """A tool's arguments: frozen, strict, unknown ones refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Model = TypeVar("Model", bound=Arguments)


def published_schema(model: type[Arguments]) -> dict[str, Any]:
    """The JSON schema a client sees: no titles, no nulls (leaving an argument out says the same)."""
    schema = model.model_json_schema()
    properties = {name: _published_property(value) for name, value in schema["properties"].items()}
    published: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return published | ({"required": schema["required"]} if "required" in schema else {})


def _published_property(schema: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in schema.items() if key != "title"}
    if shown.get("default", ...) is None:
        del shown["default"]
    kinds = [kind for kind in shown.pop("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return kinds[0] | shown
    return shown | ({"anyOf": kinds} if kinds else {})


def parse_arguments(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Arguments as `model`, or a RequestError that says in plain words what is wrong with them."""
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        _refuse_broken_text(value, name)
    try:
        return model.model_validate({name: _list_from_text(model, name, value) for name, value in values.items()})
    except ValidationError as error:
        raise RequestError(_sentences(model, error)) from None


def _list_from_text(model: type[Arguments], name: str, value: object) -> object:
    """A list that a client sent as JSON text; anything else as it is."""
    if not isinstance(value, str) or not value.startswith("[") or not _takes(model, name, list):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return cast("object", parsed)


def _takes(model: type[Arguments], name: str, kind: type) -> bool:
    """Whether an argument may be a list, or an object (`dict`)."""
    field = model.model_fields.get(name)
    return field is not None and kind in map(get_origin, (field.annotation, *get_args(field.annotation)))


def _refuse_broken_text(value: object, place: str) -> None:
    """Refuse what is no Unicode text, wherever it stands: no tokenizer has a meaning for it."""
    if isinstance(value, str):
        _refuse_broken_string(value, place)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            _refuse_broken_text(item, place)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            _refuse_broken_string(key, place)
            _refuse_broken_text(item, place)


def _refuse_broken_string(value: str, place: str) -> None:
    if (nul := value.find("\0")) >= 0:
        raise RequestError(f"`{place}` holds a NUL character (at position {nul}).", "Send text without it.")
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise RequestError(
            f"`{place}` holds half of a surrogate pair (U+{code:04X} at position {error.start}), which is no text.",
            "Send valid Unicode.",
        ) from None


def _sentences(model: type[Arguments], error: ValidationError) -> str:
    faults: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_context=True):
        name = str(detail["loc"][0])
        faults.setdefault(name, _sentence(model, name, detail))
    return " ".join(list(faults.values())[:MOST_SENTENCES])


def _sentence(model: type[Arguments], name: str, detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(name, list(model.model_fields))
    if kind == "missing":
        return f"`{name}` is missing."
    place = f"`{name}`" if not isinstance(detail["loc"][-1], int) else f"An item of `{name}`"
    if kind in ("string_too_short", "too_short") or context.get("pattern") == NOT_BLANK:
        return f"{place} is empty."
    if kind in ("string_too_long", "too_long"):
        return f"{place} is too long: at most {context['max_length']:,}."
    return f"{place} must be {_wanted(model, name, kind, context)}, not {_shown(detail['input'])}."


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    return f"Unknown argument `{name[:LONGEST_SHOWN]}`{hint}. Accepted: {', '.join(known)}."


BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
}
KINDS = {
    "string_type": "text",
    "string_pattern_mismatch": "a plain name",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list of texts",
}


def _wanted(model: type[Arguments], name: str, kind: str, context: Mapping[str, Any]) -> str:
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"{words} {context[key]:,.15g}"
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if _takes(model, name, dict):
        return "an object or JSON text"
    return KINDS.get(kind, "something else")


def _shown(value: object) -> str:
    """A wrong value, told apart by type and cut short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 100:
        return "a number of more than 30 digits"
    text = f"the text {value!r}" if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST_SHOWN + 10 else text[:LONGEST_SHOWN] + "…"
