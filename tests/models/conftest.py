"""GGUF files of a few hundred bytes, written by the format's own library."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

Key = str | int | float | list[str] | list[float]
WriteGguf = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """Writes `name` with an architecture, metadata and one tensor of 8 x 4 numbers; gives its path."""

    def write(name: str, architecture: str = "gemma3", metadata: Mapping[str, Key] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in {"gemma3.embedding_length": 8, **(metadata or {})}.items():
            match value:
                case str():
                    writer.add_string(key, value)
                case int():
                    writer.add_uint32(key, value)
                case float():
                    writer.add_float32(key, value)
                case list():
                    writer.add_array(key, value)
        writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
