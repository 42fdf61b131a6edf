"""The estimate from the header against what llama.cpp says it took, and against what a process then holds."""

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import llama_cpp
import pytest
from gemma_mcp_llamacpp.devices import gpus, memory_of
from gemma_mcp_llamacpp.log import native_log
from gemma_mcp_llamacpp.mapping import release_pages
from gemma_mcp_llamacpp.native import DRAFT_TOKENS
from llamacpp_models import Load

from gemma_mcp.engine.backend import LoadOptions, ModelSpec
from gemma_mcp.models.gguf import read_header
from gemma_mcp.models.memory import GUESSED_ROWS, Terms, encoder_of, estimate
from gemma_mcp.models.shape import shape_of

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
BUFFER = re.compile(r"(KV|compute|output) +buffer size = +([\d.]+) MiB")
TERMS = [
    Terms(context=1024, slots=1, step_tokens=256),
    Terms(context=1024, slots=4, step_tokens=512),
    Terms(context=2048, slots=2, step_tokens=256, kv_type="q8_0"),
    Terms(context=1024, slots=2, step_tokens=256, flash_attention=False),
]


@contextmanager
def buffers() -> Generator[dict[str, float]]:
    """Bytes of llama.cpp's buffers by kind, once the block is left."""
    found: dict[str, float] = {}
    lines: list[str] = []

    def write(level: int, text: bytes | None, data: object) -> None:
        lines.append((text or b"").decode("utf-8", "replace"))

    listen = llama_cpp.llama_log_callback(write)
    log = native_log()
    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    try:
        yield found
    finally:
        log.install()
    for kind, size in BUFFER.findall("".join(lines)):
        found[kind] = found.get(kind, 0.0) + float(size) * MIB


def test_rows_for_guesses_are_part_of_the_estimate() -> None:
    assert GUESSED_ROWS == DRAFT_TOKENS


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("name", ["gemma3", "gemma4", "starter"])
def test_the_buffers_are_as_large_as_estimated(
    load: Load, tiny: Path, starter: ModelSpec, name: str, terms: Terms
) -> None:
    path = Path(starter.path) if name == "starter" else tiny / f"{name}.gguf"
    shape = shape_of(read_header(path))
    assert shape is not None
    options = LoadOptions(
        threads=1,
        context_length=terms.context,
        slots=terms.slots,
        step_tokens=terms.step_tokens,
        kv_type=terms.kv_type,
        flash_attention=terms.flash_attention,
        device="cpu",
    )
    with buffers() as found:
        load(path, options)
    need = estimate(shape, terms).host
    rounding = 0.01 * MIB  # of each figure in the log
    assert need.kv_bytes == pytest.approx(found["KV"], abs=2 * rounding)
    assert need.compute_bytes == pytest.approx(found["compute"] + found["output"], rel=0.1, abs=MIB)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is counted otherwise elsewhere")
@pytest.mark.parametrize(("slots", "projector"), [(1, False), (2, True)])
def test_a_process_that_uses_all_of_the_starter_holds_what_was_estimated(slots: int, projector: bool) -> None:
    folder = Path(str(files("gemma_mcp"))) / "starter"
    model, mmproj = folder / "starter.gguf", folder / "mmproj.gguf"
    terms = Terms(context=512, slots=slots, step_tokens=512)
    order = {"path": str(model), "projector": str(mmproj) if projector else None, "terms": asdict(terms), "threads": 1}
    command = [sys.executable, "-m", "benchmarks.fit", "--measure", json.dumps(order)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    resident = json.loads(done.stdout.splitlines()[-1])["resident"] * MIB
    shape = shape_of(read_header(model))
    assert shape is not None
    guess = estimate(shape, terms, encoder_of(read_header(mmproj)) if projector else None)
    interpreters = 16 * MIB  # by which they differ; for a toy of 5 MB that is more than a tenth
    assert guess.host.total_bytes == pytest.approx(resident, rel=0.1, abs=interpreters)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are let go on Linux alone")
def test_a_loaded_file_is_read_again_after_its_pages_were_let_go(load: Load, tiny: Path, tmp_path: Path) -> None:
    path = tiny / "gemma3.gguf"
    executor = load(path)
    before = executor.info
    release_pages(str(path))
    release_pages(str(tmp_path / "never mapped"))
    release_pages(str(path), tmp_path / "no such list")
    assert load(path).info == before


def test_every_gpu_says_how_much_memory_it_has() -> None:
    for device in gpus():
        memory = memory_of(device)
        assert 0 <= memory.free_bytes <= memory.total_bytes
