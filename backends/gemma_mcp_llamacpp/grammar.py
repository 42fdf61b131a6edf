"""Grammars: GBNF text or a JSON schema, compiled by llama.cpp and consulted one token at a time."""

import ctypes
import json
import re
from typing import Any, cast

import llama_cpp
from llama_cpp.llama_grammar import json_schema_to_gbnf

from gemma_mcp.errors import RequestError
from gemma_mcp.types import Grammar
from gemma_mcp_llamacpp.candidates import Candidates
from gemma_mcp_llamacpp.log import native_log
from gemma_mcp_llamacpp.vocabulary import Vocabulary

__all__ = ["CompiledGrammar"]

MAX_GBNF_BYTES = 200_000
"""llama.cpp's parser recurses and its rules grow with the text; more than this is not a grammar but an attack."""

MAX_REPETITIONS = 256
"""Longer repetitions of a schema are left to the validator: the converter writes each one out, nested."""

MAX_NESTING = 300
"""llama.cpp's parser uses the C stack for nested parentheses; a repeated item of a schema nests one for each time."""

_HINT = "Simplify it: nested objects, arrays, enums and plain types work everywhere."
_MASKED = float("-inf")


class CompiledGrammar:
    """A grammar and how far a reply has come in it."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        text = _schema_gbnf(grammar.text) if grammar.kind == "json_schema" else grammar.text
        _refuse_deep(text)
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_GBNF_BYTES:
            raise RequestError(f"The grammar has {len(data)} bytes, more than {MAX_GBNF_BYTES}.", _HINT)
        if not data.strip() or b"\0" in data:
            raise RequestError("The grammar is empty or contains a NUL character.", "Write it as GBNF.")
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


_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*')
"""Literals, character classes and comments of GBNF."""


def _refuse_deep(gbnf: str) -> None:
    depth = 0
    for bracket in re.findall(r"[()]", _QUOTED.sub("", gbnf)):
        depth += 1 if bracket == "(" else -1
        if depth > MAX_NESTING:
            raise RequestError(f"The grammar nests more than {MAX_NESTING} parentheses.", _HINT)


def _schema_gbnf(text: str) -> str:
    try:
        schema = _loosened(json.loads(text))
        _refuse_wide_patterns(schema)
        return json_schema_to_gbnf(json.dumps(schema))
    except RequestError:
        raise
    except Exception as error:  # the converter asserts, indexes and recurses its way through what it does not know
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RequestError(f"The JSON schema cannot be turned into a grammar: {why}.", _HINT) from error


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
        elif key not in _BOUNDS or (isinstance(value, int) and 0 <= value <= MAX_REPETITIONS):
            kept[key] = _loosened(value)
    return kept


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
