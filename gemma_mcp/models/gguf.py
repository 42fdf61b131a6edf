"""The header of a GGUF file: its metadata and where its tensors lie. The weights are never read.

A file comes from anywhere, so no length in it is believed: everything is checked against the size of the file and
against bounds that real models stay far below. Format: `docs/gguf.md` of the ggml project, versions 2 and 3.
"""

import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gemma_mcp.errors import LoadFailedError
from gemma_mcp.models.ggml import BLOCKS

__all__ = ["Array", "GgufHeader", "Scalar", "TensorInfo", "Value", "read_header"]

MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 65_535
MAX_STRING_BYTES = 4 << 20
MAX_STRINGS = 4_000_000
KEPT_ELEMENTS = 1024
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""A fifo that takes the file's place in the last moment must not block us."""

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Array:
    """An array of `length` elements; `values` is empty for one of more than 1,024, such as a vocabulary."""

    length: int
    values: tuple[Scalar, ...] = ()


Value = Scalar | Array


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: its shape, innermost dimension first, its ggml type and where it begins after the header, in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size_bytes(self) -> int:
        """0 for a type that is younger than this program."""
        elements, size = BLOCKS.get(self.kind, (1, 0))
        return math.prod(self.shape) // elements * size


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself. `size_bytes` is that of the whole file."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    size_bytes: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, empty when it is not there."""
        return self.text("general.architecture")

    def text(self, key: str) -> str:
        """A string of the metadata, empty when there is none of that name."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        """A finite number of the metadata, None when there is none of that name."""
        value = self.metadata.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return value

    def length(self, key: str) -> int:
        """How many elements an array of the metadata has, 0 when there is none of that name."""
        value = self.metadata.get(key)
        return value.length if isinstance(value, Array) else 0

    def per_layer(self, key: str, layers: int, default: int = 0) -> tuple[int, ...]:
        """Whole numbers, one for each layer: those of an array, or one number for all. Truth values count as 0 and 1.

        `default` stands for what is missing or is no whole number.
        """
        value = self.metadata.get(key)
        given = value.values if isinstance(value, Array) else (value,) * layers
        whole = [one if isinstance(one, int) else default for one in given[:layers]]
        return (*whole, *[default] * (layers - len(whole)))


class Malformed(Exception):  # noqa: N818
    """What is wrong with a file; never leaves this module."""


class Reader:
    """Takes values off a file, refusing those that would end behind it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.size - self.at:
            raise Malformed(f"it is cut off: the header needs more than the file's {self.size} bytes")
        data = self.file.read(count)
        if len(data) != count:
            raise Malformed("it became shorter while it was read")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        """Step over `count` bytes."""
        if count > self.size - self.at:
            raise Malformed(f"it is cut off: the header needs more than the file's {self.size} bytes")
        self.file.seek(count, os.SEEK_CUR)
        self.at += count

    def scalar(self, code: str) -> int | float | bool:
        """A little-endian number; `code` is `struct`'s."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, limit: int, what: str) -> int:
        """A 64-bit number of things that are to follow, at most `limit`."""
        value = int(self.scalar("Q"))
        if value > limit:
            raise Malformed(f"its header is damaged: it claims {value} {what}")
        return value

    def string(self, limit: int = MAX_STRING_BYTES) -> str:
        """A string of at most `limit` bytes; what is not UTF-8 in it is replaced."""
        return self.take(self.count(limit, "bytes for one string")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Value:
        """A value of a metadata type."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise Malformed(f"its header is damaged: there is no metadata type {kind}")
        return self.scalar(SCALARS[kind])

    def array(self) -> Array:
        """An array; long ones are stepped over."""
        kind = int(self.scalar("I"))
        length = int(self.scalar("Q"))
        if kind == STRING:
            return self.strings(length)
        if kind not in SCALARS:
            raise Malformed(f"its header is damaged: there is no array of type {kind}")
        if length > KEPT_ELEMENTS:
            self.skip(length * struct.calcsize(f"<{SCALARS[kind]}"))
            return Array(length)
        return Array(length, tuple(self.scalar(SCALARS[kind]) for _ in range(length)))

    def strings(self, length: int) -> Array:
        """An array of strings, which has to be walked through to find its end."""
        if length > MAX_STRINGS:
            raise Malformed(f"its header is damaged: it claims {length} strings in one list")
        if length <= KEPT_ELEMENTS:
            return Array(length, tuple(self.string(MAX_KEY_BYTES) for _ in range(length)))
        for _ in range(length):
            self.take(self.count(MAX_KEY_BYTES, "bytes for one string"))
        return Array(length)

    def tensor(self) -> TensorInfo:
        """An entry of the tensor index."""
        name = self.string(MAX_KEY_BYTES)
        dimensions = int(self.scalar("I"))
        if dimensions > 4:
            raise Malformed(f"its header is damaged: the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(int(self.scalar("Q")) for _ in range(dimensions))
        return TensorInfo(name, shape, int(self.scalar("I")), int(self.scalar("Q")))


def read_header(path: Path) -> GgufHeader:
    """The header of the GGUF file at `path`.

    Raises LoadFailedError when there is no such file, when it is something else than GGUF (a fifo, a device), damaged,
    or shorter than its own index of tensors says (a download that was cut off).
    """
    try:
        _check_regular(path, path.stat())  # before it is opened: that alone has effects on some devices
        with os.fdopen(os.open(path, OPEN_FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(path, status)
            return _read(Reader(file, status.st_size))
    except Malformed as error:
        raise LoadFailedError(str(path), str(error), "Download the file again.") from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise LoadFailedError(str(path), why, "Check that the path is right and the file readable.") from error


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise LoadFailedError(str(path), "it is not a regular file", "Check that the path names a GGUF file.")


def _read(reader: Reader) -> GgufHeader:
    version = _version(reader)
    tensors = reader.count(MAX_TENSORS, "tensors")
    keys = reader.count(MAX_KEYS, "metadata keys")
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        key = reader.string(MAX_KEY_BYTES)
        metadata[key] = reader.value(int(reader.scalar("I")))
    index = tuple(reader.tensor() for _ in range(tensors))
    header = GgufHeader(version, metadata, index, reader.size)
    _check_length(header, reader.at)
    return header


def _version(reader: Reader) -> int:
    start = reader.file.read(512)
    reader.file.seek(0)
    if start[:4] != b"GGUF":
        raise Malformed(f"it is not a GGUF file{_likeness(start)}")
    reader.take(4)
    version = int(reader.scalar("I"))
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        why = "it is a big-endian GGUF file" if swapped in (2, 3) else f"it is of GGUF version {version}"
        raise Malformed(f"{why}; versions 2 and 3, little-endian, are read")
    return version


def _likeness(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return ", it is empty"
    if not start.strip(b"\0"):
        return ", it begins with zeros as an unfinished download does"
    if text.startswith((b"<!doctype html", b"<html")):
        return " but a web page; a download that needs a login gives one"
    if text.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer; fetch the file itself"
    if start[8:10] == b'{"':
        return " but a safetensors file; take the GGUF version of the model"
    if start.startswith(b"PK\x03\x04"):
        return " but a zip archive, such as a PyTorch checkpoint"
    if text.startswith(b"{"):
        return " but JSON, such as an Ollama manifest"
    return ""


def _check_length(header: GgufHeader, index_end: int) -> None:
    """A file must reach as far as its last tensor."""
    alignment = header.number("general.alignment") or 32
    if alignment < 1 or alignment != int(alignment):
        raise Malformed(f"its header is damaged: it claims an alignment of {alignment}")
    data = math.ceil(index_end / alignment) * int(alignment) if header.tensors else 0
    needed = max((data + tensor.offset + tensor.size_bytes for tensor in header.tensors), default=0)
    if needed > header.size_bytes:
        raise Malformed(f"it is cut off: it has {header.size_bytes} bytes and its tensors need {needed}")
