"""Headers of GGUF files, good and hostile."""

import contextlib
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemma_mcp.errors import LoadFailedError
from gemma_mcp.models.ggml import BLOCKS
from gemma_mcp.models.gguf import Array, TensorInfo, read_header

WriteGguf = Callable[..., Path]


def test_metadata_and_tensors_are_read_as_they_were_written(write_gguf: WriteGguf) -> None:
    path = write_gguf("a.gguf", metadata={"s": "täxt", "n": 7, "f": 0.5, "list": [1.0, 2.0], "tags": ["a", "b"]})
    header = read_header(path)
    assert (header.version, header.architecture, header.size_bytes) == (3, "gemma3", path.stat().st_size)
    assert (header.text("s"), header.number("n"), header.number("f")) == ("täxt", 7, 0.5)
    assert header.metadata["list"] == Array(2, (1.0, 2.0))
    assert header.metadata["tags"] == Array(2, ("a", "b"))
    assert header.tensors == (TensorInfo("token_embd.weight", (8, 4), 0, 0),)
    assert header.tensors[0].size_bytes == 128


def test_a_key_that_is_absent_or_of_another_kind_reads_as_nothing(write_gguf: WriteGguf) -> None:
    header = read_header(write_gguf("a.gguf", metadata={"s": "x", "n": 1, "inf": float("inf")}))
    assert header.text("n") == header.text("none") == ""
    assert header.number("s") is header.number("none") is header.number("inf") is None


def test_of_a_vocabulary_only_the_length_is_kept(write_gguf: WriteGguf) -> None:
    header = read_header(write_gguf("a.gguf", metadata={"t": ["piece"] * 5000, "s": [0.5] * 5000, "after": "x"}))
    assert header.metadata["t"] == header.metadata["s"] == Array(5000)
    assert header.text("after") == "x"


def test_block_sizes_are_those_of_ggml() -> None:
    assert {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items() if int(kind) in BLOCKS} == dict(BLOCKS)


def test_a_type_younger_than_the_table_says_nothing_about_its_size() -> None:
    assert TensorInfo("t", (32,), 4242, 0).size_bytes == 0


@pytest.mark.parametrize("missing", [1, 100, 128])
def test_a_file_without_its_last_bytes_is_named_with_both_sizes(write_gguf: WriteGguf, missing: int) -> None:
    path = write_gguf("a.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:-missing])
    with pytest.raises(LoadFailedError, match=rf"has {len(data) - missing} bytes and its tensors need {len(data)}"):
        read_header(path)


def test_a_file_that_ends_in_its_header_is_cut_off(write_gguf: WriteGguf) -> None:
    path = write_gguf("a.gguf", metadata={"list": [0.5] * 2000})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(LoadFailedError, match="cut off"):
        read_header(path)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 600, "unfinished download"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (struct.pack("<Q", 60) + b'{"a":{"dtype":"F32"', "safetensors"),
        (b"PK\x03\x04", "zip archive"),
        (b'{"schemaVersion":2}', "JSON"),
        (b"anything else", "not a GGUF file"),
        (b"GGUF\x01\0\0\0" + b"\0" * 8, "GGUF version 1"),
        (b"GGUF\0\0\0\x03" + b"\0" * 16, "big-endian"),
    ],
)
def test_a_foreign_file_is_called_what_it_looks_like(tmp_path: Path, start: bytes, reason: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(start)
    with pytest.raises(LoadFailedError, match=reason):
        read_header(path)


def head(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def key(kind: int, *rest: bytes) -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + b"".join(rest)


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


ALIGNMENT = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0)


@pytest.mark.parametrize(
    "data",
    [
        head(2**63, 0),
        head(0, 2**63),
        head(0, 1) + number(2**60),
        head(0, 1) + key(8, number(2**60)),
        head(0, 1) + key(9, struct.pack("<I", 8), number(2**60)),
        head(0, 1) + key(9, struct.pack("<I", 6), number(2**60)),
        head(0, 1) + key(9, struct.pack("<I", 9), number(1)),
        head(0, 1) + key(77),
        head(1, 0) + number(1) + b"t" + struct.pack("<I", 2**31),
        head(1, 0) + number(1) + b"t" + struct.pack("<IQQQQIQ", 4, *[2**63] * 4, 0, 2**63),
        head(0, 1) + struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<If", 6, 0.5),
        head(0, 1) + struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<Ii", 5, -1),
    ],
)
def test_no_length_in_a_hostile_header_is_believed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(LoadFailedError):
        read_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 400), noise=st.binary(min_size=1, max_size=12))
def test_a_damaged_header_is_read_or_refused_and_never_anything_else(
    write_gguf: WriteGguf, place: int, noise: bytes
) -> None:
    path = write_gguf("a.gguf", metadata={"tags": ["a", "b"], "list": [1.0]})
    data = path.read_bytes()
    path.write_bytes(data[:place] + noise + data[place + len(noise) :])
    with contextlib.suppress(LoadFailedError):
        assert read_header(path).size_bytes == len(path.read_bytes())


def test_a_file_that_is_not_there_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(LoadFailedError, match="could not be loaded") as caught:
            read_header(path)
        assert "Check that the path" in caught.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero")):
        with pytest.raises(LoadFailedError, match="it is not a regular file") as caught:
            read_header(path)
        assert "GGUF file" in caught.value.hint
