"""How fast the machine's cores read memory, and how much of it a token needs: the limit of decoding on a CPU."""

import time
from concurrent.futures import ThreadPoolExecutor

from gemma_mcp.models.gguf import GgufHeader

__all__ = ["READ_HOW", "read_bandwidth", "token_bytes"]

ARRAY_BYTES = 1 << 30
PASSES = 7
READ_HOW = "numpy's OR over 1 GiB of 64-bit numbers on all cores, the best of 7 passes"

LOOKED_UP = "per_layer_token_embd.weight"
"""A table of which a token reads one row: Gemma 3n and 4 E2B, E4B."""


def read_bandwidth(cores: int, available_bytes: int) -> float:
    """Bytes per second; 0 without numpy, or when memory is too short for an array that no cache holds."""
    try:
        import numpy as np
    except ModuleNotFoundError:
        return 0.0
    if available_bytes < 2 * ARRAY_BYTES:
        return 0.0
    parts = np.array_split(np.ones(ARRAY_BYTES // 8, np.uint64), cores)
    seconds: list[float] = []
    with ThreadPoolExecutor(cores) as threads:  # numpy lets go of the GIL while it reads
        for _ in range(PASSES):
            started = time.perf_counter()
            list(threads.map(np.bitwise_or.reduce, parts))
            seconds.append(time.perf_counter() - started)
    return ARRAY_BYTES / min(seconds)


def token_bytes(header: GgufHeader) -> int:
    """Of weights that are read for one token of one sequence; the KV cache is not in it.

    Embeddings count, as the output reads them whole, unless the output has weights of its own. Of a mixture's experts,
    those that a token uses.
    """
    names = {tensor.name for tensor in header.tensors}
    skipped = (LOOKED_UP, "token_embd.weight") if "output.weight" in names else (LOOKED_UP,)
    total = header.number(f"{header.architecture}.expert_count") or 1
    share = (header.number(f"{header.architecture}.expert_used_count") or 1) / total
    return round(
        sum(
            tensor.size_bytes * (share if "_exps" in tensor.name else 1)
            for tensor in header.tensors
            if tensor.name not in skipped
        )
    )
