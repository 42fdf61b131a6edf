"""How near the estimate of a model's memory comes to what is then used.

    python -m benchmarks.fit FILE... [--context 2048,8192] [--slots 1,4] [--kv f16,q8_0] [--step 2048]

Every combination is loaded in a process of its own, which does what a worker does, fills the whole KV cache in passes
of the largest size, looks at one image if there is a `--projector`, and says how much memory it takes: its resident
set, and what llama.cpp's log says of its buffers.
"""

import argparse
import ctypes
import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from gemma_mcp.engine.backend import Executor, LoadOptions, MediaPiece, MediaRow, ModelSpec, SlotOptions, Step, TokenRow
from gemma_mcp.models.gguf import read_header
from gemma_mcp.models.memory import Encoder, Estimate, Terms, encoder_of, estimate
from gemma_mcp.models.shape import shape_of
from gemma_mcp.types import Control, Media, Sampling

MIB = 1 << 20
BUFFER = re.compile(r"(\S+) +(model|KV|compute|output) +buffer size = +([\d.]+) MiB")
FIRST_TOKEN, TOKENS = 10, 200
"""Ordinary tokens of every vocabulary."""


def measure(path: str, projector: str | None, terms: Terms, threads: int = 0) -> dict[str, float]:
    """Load the model in this process and use all of it; MiB by what they are for."""
    import llama_cpp
    from gemma_mcp_llamacpp.loading import load
    from gemma_mcp_llamacpp.log import native_log

    import gemma_mcp.engine.worker  # noqa: F401 -- what a worker imports counts

    native_log()
    lines: list[str] = []
    listen = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    executor = load(
        ModelSpec(name="model", format="gguf", path=path, projector=projector),
        LoadOptions(
            context_length=terms.context,
            slots=terms.slots,
            step_tokens=terms.step_tokens,
            kv_type=terms.kv_type,
            flash_attention=terms.flash_attention,
            gpu_layers=terms.gpu_layers,
            threads=threads,
        ),
        lambda fraction: None,
    )
    fill(executor)
    if projector:
        look(executor)
    found: dict[str, float] = {}
    for _, kind, size in BUFFER.findall("".join(lines)):
        found[kind] = found.get(kind, 0.0) + float(size)
    return {**found, "resident": psutil.Process().memory_info().rss / MIB}


def fill(executor: Executor) -> None:
    """Compute tokens until every cell of every slot is in use, as many in one pass as it takes."""
    length, most = executor.info.context_length, executor.info.step_tokens
    rows: list[TokenRow] = []
    for slot in range(executor.info.slots):
        executor.open(slot, SlotOptions(sampling=Sampling(temperature=0.0)))
        start = 0
        while start < length:
            room = most - sum(len(row.tokens) for row in rows)
            tokens = tuple(FIRST_TOKEN + at % TOKENS for at in range(start, min(start + room, length)))
            start += len(tokens)
            rows.append(TokenRow(slot, start - len(tokens), tokens, start == length))
            if len(tokens) == room:
                executor.step(Step(rows=tuple(rows)))
                rows.clear()
    if rows:
        executor.step(Step(rows=tuple(rows)))


def look(executor: Executor) -> None:
    """Compute one large image."""
    from PIL import Image

    from gemma_mcp.engine.backend import Trim

    file = io.BytesIO()
    Image.linear_gradient("L").resize((1024, 1024)).convert("RGB").save(file, "PNG")
    pieces = executor.encode([Control("<bos>"), Media(file.getvalue())])
    media = next(piece.media for piece in pieces if isinstance(piece, MediaPiece))
    executor.step(Step(trims=(Trim(0, 0),), rows=(MediaRow(0, 0, media),)))


def compare(path: str, projector: str | None, terms: Terms) -> None:
    """Print one row of the table."""
    shape = shape_of(read_header(Path(path)))
    assert shape is not None, f"{path} has no shape"
    encoder: Encoder | None = encoder_of(read_header(Path(projector))) if projector else None
    guess = estimate(shape, terms, encoder)
    order = json.dumps({"path": path, "projector": projector, "terms": asdict(terms)})
    done = subprocess.run([sys.executable, "-m", "benchmarks.fit", "--measure", order], capture_output=True, text=True)
    name = Path(path).stem
    what = f"{name:20.20} {terms.context:>6} x {terms.slots:<2} {terms.kv_type:4} {terms.step_tokens:>5}"
    if done.returncode:
        print(what, "failed:", done.stderr.strip().splitlines()[-1])
        return
    print(what, *columns(guess, json.loads(done.stdout.splitlines()[-1])), flush=True)


def columns(guess: Estimate, found: dict[str, float]) -> list[str]:
    """Estimate, measurement and error of the parts that the log names, then of the whole process."""
    need = guess.host
    kv = need.kv_bytes / MIB
    whole = need.total_bytes / MIB
    buffers = found["compute"] + found["output"]
    return [
        f"| {kv:7.1f} {found['KV']:7.1f}",
        f"| {need.compute_bytes / MIB:7.1f} {buffers:7.1f}",
        f"| {whole:8.1f} {found['resident']:8.1f} {100 * (whole / found['resident'] - 1):+6.1f} %",
    ]


def main(arguments: Sequence[str]) -> None:
    """Read the command line."""
    if arguments[:1] == ["--measure"]:
        order = json.loads(arguments[1])
        order["terms"] = Terms(**order["terms"])
        print(json.dumps(measure(**order)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    for name, default in (("context", "2048,8192"), ("slots", "1,4"), ("kv", "f16"), ("step", "2048")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--projector")
    given = parser.parse_args(arguments)
    print("MiB                    context  kv  step  |      KV  found | compute   found |    whole resident    error")
    lists = (given.context, given.slots, given.step, given.kv)
    for path, (context, slots, step, kv) in itertools.product(
        given.files, itertools.product(*(text.split(",") for text in lists))
    ):
        compare(path, given.projector, Terms(int(context), int(slots), int(step), kv))


if __name__ == "__main__":
    main(sys.argv[1:])
