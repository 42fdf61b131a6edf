"""Pages of a model's file that were mapped only to be copied are let go."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["release_pages"]

_DONTNEED = 4
"""MADV_DONTNEED of Linux: for a mapped file it drops the pages from the process, and a later read finds them again."""


def release_pages(path: str, maps: Path = Path("/proc/self/maps")) -> None:
    """Drop the pages of the mapped file from this process; those that a pass reads come back by themselves.

    llama.cpp maps the whole file, reads all of it, and copies most weights into an order that suits the processor (half
    of a Q4_0 file and more). Without this the process would hold such weights twice. Linux alone; elsewhere nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _ranges(os.path.realpath(path), maps):
        advise(start, end - start, _DONTNEED)  # what it refuses stays as it was


def _ranges(path: str, maps: Path) -> Iterator[tuple[int, int]]:
    """Where the file is mapped read-only: what a private copy of it held would be lost."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        addresses, rights, _, _, _, *name = line.split(maxsplit=5)
        if rights.startswith("r-") and name == [path]:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
