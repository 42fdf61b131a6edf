"""Models of random weights, made once and kept in the cache folder."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from gemma_mcp.bench.shapes import Shape
from gemma_mcp.errors import BackendError, BackendMissingError, CapacityError
from gemma_mcp.places import Places
from gemma_mcp.state import private_folder, unusable

__all__ = ["UNQUANTISED", "synthetic_model"]

QUANTISER = "gemma_mcp_llamacpp.quantize"
INSTALL = 'pip install "gemma-mcp[llamacpp]"'
UNQUANTISED = "F16"
FORMAT = 1
"""Raised when files of older releases are no longer what this one would write."""

WRITING_SHARE = 0.7
"""Of the time; quantising takes the rest."""

Progress = Callable[[float, str], None]
"""Is told how far it is, 0 to 1, and what is being done."""


def synthetic_model(shape: Shape, kind: str, places: Places, progress: Progress) -> Path:
    """The file with these shapes, quantised to `kind` ("Q4_0"), written if it is not there.

    It takes disk space for the weights in F16 while it is made, and little memory. Raises ConfigError when the cache
    folder cannot be used, BackendError when llama.cpp cannot quantise, BackendMissingError without llama.cpp's backend.
    """
    folder = private_folder(places.cache / "synthetic")
    path = folder / f"synthetic-{shape.name}-{kind}-v{FORMAT}.gguf"
    try:
        with FileLock(path.with_suffix(".lock")):  # two benchmarks at once would write the same file
            if not path.exists():
                _make(path, shape, kind, progress)
    except OSError as error:
        raise unusable(folder, error) from error
    return path


def _make(path: Path, shape: Shape, kind: str, progress: Progress) -> None:
    _check_space(path.parent, shape)
    draft, target = (path.with_suffix(f".{os.getpid()}.{name}") for name in ("f16", "part"))
    try:
        from gemma_mcp.bench.random_weights import write_random  # needs numpy, which comes with the runtime

        what = f"writing random weights of {shape.name}"
        write_random(draft, shape, lambda share: progress(share * WRITING_SHARE, what))
        if kind == UNQUANTISED:
            draft.replace(path)
            return
        progress(WRITING_SHARE, f"quantising {shape.name} to {kind}")
        _quantise(draft, target, kind)
        target.replace(path)
    except ModuleNotFoundError as error:
        raise BackendMissingError("llamacpp", INSTALL) from error
    finally:
        draft.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def _check_space(folder: Path, shape: Shape) -> None:
    """Twice F16 at most: the draft and what is made of it."""
    values = sum(math.prod(tensor.shape) for tensor in shape.tensors())
    free = shutil.disk_usage(folder).free
    if free < 4 * values:
        raise CapacityError(
            f"Random weights of {shape.name} need {4 * values / 1e9:.1f} GB of disk while they are made; "
            f"{free / 1e9:.1f} GB are free in {folder}.",
            "Make room, or take a smaller model.",
        )


def _quantise(source: Path, target: Path, kind: str) -> None:
    """In a child: llama.cpp ends the process where it fails badly."""
    command = [sys.executable, "-P", "-m", QUANTISER, str(source), str(target), kind]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"exit code {done.returncode}"
        raise BackendError(
            f"llama.cpp could not quantise the random weights: {why.removesuffix('.')}.", "Choose another --quant."
        )
