"""Grammars: GBNF text or a JSON schema, compiled by llama.cpp and consulted one token at a time."""

import ctypes
import json
import re
from typing import Any, cast

import llama_cpp
from llama_cpp.llama_grammar import SchemaConverter

from gemma_mcp.errors import RequestError
from gemma_mcp.types import Grammar
from gemma_mcp_llamacpp.candidates import Candidates
from gemma_mcp_llamacpp.gbnf import TooHardError, check_effort
from gemma_mcp_llamacpp.log import native_log
from gemma_mcp_llamacpp.vocabulary import Vocabulary

__all__ = ["CompiledGrammar"]

MAX_REPETITIONS = 256
"""Longer repetitions of a schema are left to the validator: the converter writes each one out, nested."""

_HINT = "Simplify it: nested objects, arrays, enums and plain types work everywhere."
_MASKED = float("-inf")


class CompiledGrammar:
    """A grammar and how far a reply has come in it."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        text = _schema_gbnf(grammar.text) if grammar.kind == "json_schema" else grammar.text
        data = text.encode("utf-8", "replace")
        if not text.strip() or "\0" in text:
            raise RequestError("The grammar is empty or contains a NUL character.", "Write it as GBNF.")
        try:
            check_effort(text)
        except TooHardError as error:
            raise RequestError(f"The grammar is refused: {error}.", _HINT) from None
        with native_log().errors() as reasons:
            handle = llama_cpp.llama_sampler_init_grammar(vocabulary.handle, data, b"root")
        if not handle:
            raise RequestError(f"The grammar was refused: {reasons}.", "It must be GBNF with a rule `root`.")
        self.handle = handle
        self._one = (llama_cpp.llama_token_data * 1)()
        self._array = llama_cpp.llama_token_data_array()
        self._pointer = ctypes.byref(self._array)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; one that ends generation only where the grammar is complete."""
        self._one[0].id, self._one[0].logit = token, 0.0
        self._array.data, self._array.size = self._one, 1
        self._array.selected, self._array.sorted = -1, False
        llama_cpp.llama_sampler_apply(self.handle, self._pointer)
        return self._one[0].logit != _MASKED

    def mask(self, candidates: Candidates) -> None:
        """Rule out everything that may not come next."""
        candidates.apply(self.handle)

    def accept(self, token: int) -> None:
        """Go on by `token`. llama.cpp aborts the process for one that is not allowed, so ask first."""
        llama_cpp.llama_sampler_accept(self.handle, token)

    def close(self) -> None:
        """Free it."""
        llama_cpp.llama_sampler_free(self.handle)


def _schema_gbnf(text: str) -> str:
    try:
        schema = _loosened(json.loads(text))
        _refuse_wide_patterns(schema)
        return _converted({} if schema is True else schema).replace(_ANY_CHARACTER, _JSON_CHARACTER)
    except RequestError:
        raise
    except Exception as error:  # the converter asserts, indexes and recurses its way through what it does not know
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RequestError(f"The JSON schema cannot be turned into a grammar: {why}.", _HINT) from error


class _Converter(SchemaConverter):
    """Knows that a backslash is one in GBNF, too: the original spoils constants and names that JSON writes with any."""

    def _format_literal(self, literal: str) -> str:
        text = json.dumps(json.loads(literal), ensure_ascii=False)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _converted(schema: Any) -> str:
    converter = _Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter.visit(converter.resolve_refs(schema, "schema"), "")
    return converter.format_grammar()


_ANY_CHARACTER = r'char ::= [^"\\] |'
_JSON_CHARACTER = r'char ::= [^"\\\x00-\x1F\x7F] |'
"""The converter would let control characters into strings, which JSON does not."""

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " \\t\\n"}
"""Regular expression classes that the converter does not know."""

_BOUNDS = ("minItems", "maxItems", "minLength", "maxLength")
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_DATA = ("const", "enum", "default", "examples")


def _loosened(schema: Any) -> Any:
    """The schema without bounds that would blow the grammar up; replies are validated against the true one anyway."""
    if isinstance(schema, list):
        return [_loosened(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", schema).items():
        if key in _MAPS and isinstance(value, dict):
            kept[key] = {name: _loosened(item) for name, item in cast("dict[str, Any]", value).items()}
        elif key in _DATA:
            kept[key] = value
        elif key == "pattern" and isinstance(value, str):
            kept[key] = _spelled(value)
        elif key not in _BOUNDS or (isinstance(value, int) and 0 <= value <= MAX_REPETITIONS):
            kept[key] = _loosened(value)
    return kept


def _spelled(pattern: str) -> str:
    """The pattern with its classes and escaped punctuation written out, which the converter passes on unread."""
    inside = False
    out: list[str] = []
    for part in re.findall(r"\\.|.", pattern, re.DOTALL):
        characters = _escaped(part[1:]) if part.startswith("\\") else None
        if characters is not None:
            out.append(characters if inside else f"[{characters}]")
            continue
        if part in ("[", "]"):
            inside = part == "["
        out.append(part)
    return "".join(out)


def _escaped(character: str) -> str | None:
    """What stands for an escape inside a character class of GBNF; None where both languages agree."""
    punctuation = character.isascii() and character.isprintable() and not character.isalnum()
    return f"\\x{ord(character):02X}" if punctuation else _CLASSES.get(character)


def _refuse_wide_patterns(schema: Any) -> None:
    for pattern in _patterns(schema):
        counts = [
            int(count) for braces in re.findall(r"\{([\d,\s]*)\}", pattern) for count in re.findall(r"\d+", braces)
        ]
        product = 1
        for count in counts:
            product *= max(count, 1)
        if product > MAX_REPETITIONS or len(pattern) > 1000:
            raise RequestError(f"The pattern {pattern[:60]!r} repeats too much for a grammar.", _HINT)


def _patterns(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [found for item in cast("list[Any]", schema) for found in _patterns(item)]
    if not isinstance(schema, dict):
        return []
    items = cast("dict[str, Any]", schema)
    own = [items["pattern"]] if isinstance(items.get("pattern"), str) else []
    return own + [found for item in items.values() for found in _patterns(item)]
