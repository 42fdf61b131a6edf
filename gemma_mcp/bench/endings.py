"""Which tokens of a model end its replies: a benchmark keeps them from being chosen."""

import os
from pathlib import Path

from gemma_mcp.models.gguf import ARRAY, STRING, Reader, read_header

__all__ = ["ending_bias"]

TEXTS = frozenset(
    (
        "<eos>",
        "<end_of_turn>",
        "<turn|>",
        "<|tool_response>",
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        "<|file_separator|>",
        "</s>",
        "<|endoftext|>",
    )
)
"""Gemma's, and what else llama.cpp and our engine take for an end."""

KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
VOCABULARY = "tokenizer.ggml.tokens"

NEVER = -100.0
"""The least bias that OpenAI's API allows."""


def ending_bias(path: Path) -> dict[str, float]:
    """A `logit_bias` against the ends of a model file's vocabulary. Raises LoadFailedError for a damaged file."""
    header = read_header(path)
    ids = {int(number) for key in KEYS if (number := header.number(f"tokenizer.ggml.{key}")) is not None}
    ids |= {index for index, text in enumerate(_vocabulary(path)) if text in TEXTS}
    return {str(token): NEVER for token in sorted(ids)}


def _vocabulary(path: Path) -> list[str]:
    """The texts of all tokens. The header was read before, so the file is known to be whole."""
    with path.open("rb") as file:
        reader = Reader(file, os.fstat(file.fileno()).st_size)
        reader.take(16)
        for _ in range(reader.count(1 << 32, "keys")):
            key, kind = reader.string(), int(reader.scalar("I"))
            if key == VOCABULARY and kind == ARRAY and int(reader.scalar("I")) == STRING:
                return [reader.string() for _ in range(reader.count(1 << 32, "tokens"))]
            reader.value(kind)
    return []
