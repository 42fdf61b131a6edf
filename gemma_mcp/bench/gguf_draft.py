"""Writes a GGUF file tensor by tensor, so that no more than a piece of one tensor is in memory.

The format: ggml's `docs/gguf.md`, version 3. `gemma_mcp.models.gguf` reads it.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from gemma_mcp.errors import RequestError

__all__ = ["ALIGNMENT", "F16", "F32", "PlannedTensor", "Value", "write_gguf"]

ALIGNMENT = 32
VERSION = 3
F32, F16 = 0, 1
"""ggml's numbers of two types."""

BYTES_OF = {F32: 4, F16: 2}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor and where its bytes come from; `shape`: innermost dimension first; `kind`: F32 or F16."""

    name: str
    shape: tuple[int, ...]
    kind: int
    pieces: Iterable[bytes]

    @property
    def size_bytes(self) -> int:
        """Of the data."""
        size = BYTES_OF[self.kind]
        for length in self.shape:
            size *= length
        return size


def write_gguf(file: BinaryIO, metadata: dict[str, Value], tensors: Sequence[PlannedTensor]) -> None:
    """Write the whole file. Raises OSError, and RequestError when a tensor's pieces are not as long as its shape."""
    file.write(b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        file.write(_string(key) + _value(value))
    offset = 0
    for tensor in tensors:
        file.write(_entry(tensor, offset))
        offset += _padded(tensor.size_bytes)
    _pad(file)
    for tensor in tensors:
        _write_data(file, tensor)


def _write_data(file: BinaryIO, tensor: PlannedTensor) -> None:
    written = sum(file.write(piece) for piece in tensor.pieces)
    if written != tensor.size_bytes:
        raise RequestError(f"The tensor {tensor.name} has {written} bytes; its shape needs {tensor.size_bytes}.")
    _pad(file)


def _entry(tensor: PlannedTensor, offset: int) -> bytes:
    dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return _string(tensor.name) + dimensions + struct.pack("<IQ", tensor.kind, offset)


def _value(value: Value) -> bytes:
    kind, data = _scalar(value) if isinstance(value, str | bool | int | float) else _array(value)
    return struct.pack("<I", kind) + data


def _scalar(value: str | bool | int | float) -> tuple[int, bytes]:
    if isinstance(value, str):
        return STRING, _string(value)
    if isinstance(value, bool):
        return BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return UINT32, struct.pack("<I", value)
    return FLOAT32, struct.pack("<f", value)


def _array(values: Sequence[str] | Sequence[int] | Sequence[float]) -> tuple[int, bytes]:
    """Of the type of its first element."""
    first = values[0]
    if isinstance(first, str):
        kind, data = STRING, b"".join(_string(str(one)) for one in values)
    elif isinstance(first, int):
        kind, data = INT32, struct.pack(f"<{len(values)}i", *values)
    else:
        kind, data = FLOAT32, struct.pack(f"<{len(values)}f", *values)
    return ARRAY, struct.pack("<IQ", kind, len(values)) + data


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
