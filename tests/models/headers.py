"""Headers of models as real files have them, without any file."""

from collections.abc import Iterable, Mapping

from gemma_mcp.models.ggml import BLOCKS
from gemma_mcp.models.gguf import Array, GgufHeader, TensorInfo, Value
from gemma_mcp.models.shape import Shape, shape_of

__all__ = ["F16", "F32", "Q4_0", "Q8_0", "gemma3", "gemma4", "header_of", "shape"]

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8

Named = tuple[str, tuple[int, ...], int]


def header_of(architecture: str, keys: Mapping[str, Value], tensors: Iterable[Named]) -> GgufHeader:
    """A header with the architecture's keys, named without it."""
    index: list[TensorInfo] = []
    at = 0
    for name, dimensions, kind in tensors:
        index.append(TensorInfo(name, dimensions, kind, at))
        at += index[-1].size_bytes
    metadata: dict[str, Value] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in keys.items()}
    assert all(tensor.kind in BLOCKS for tensor in index)
    return GgufHeader(3, metadata, tuple(index), at)


def gemma3(
    layers: int,
    hidden: int,
    width: int,
    heads: int,
    kv_heads: int,
    head: int,
    window: int,
    *,
    context: int = 32768,
    vocabulary: int = 262_144,
    kind: int = Q4_0,
    table: int = Q8_0,
) -> GgufHeader:
    """A text model of the Gemma 3 family."""
    keys: dict[str, Value] = {
        "block_count": layers,
        "embedding_length": hidden,
        "feed_forward_length": width,
        "context_length": context,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.sliding_window": window,
    }
    tensors: list[Named] = [("token_embd.weight", (hidden, vocabulary), table), ("output_norm.weight", (hidden,), F32)]
    for at in range(layers):
        tensors += _layer(at, hidden, width, heads * head, kv_heads * head, kind)
    return header_of("gemma3", keys, tensors)


def gemma4(
    layers: int,
    hidden: int,
    widths: int | list[int],
    heads: int,
    kv_heads: tuple[int, int],
    window: int,
    *,
    every: int = 6,
    shared: int = 0,
    per_layer: int = 0,
    experts_used: int = 0,
    vocabulary: int = 262_144,
) -> GgufHeader:
    """A text model of the Gemma 4 family; `kv_heads` of the layers that see everything, and of those with a window."""
    windowed = tuple(at % every != every - 1 for at in range(layers))
    width = widths if isinstance(widths, list) else [widths] * layers
    keys: dict[str, Value] = {
        "block_count": layers,
        "embedding_length": hidden,
        "feed_forward_length": Array(layers, tuple(width)),
        "context_length": 131_072,
        "attention.head_count": heads,
        "attention.head_count_kv": Array(layers, tuple(kv_heads[one] for one in windowed)),
        "attention.key_length": 512,
        "attention.value_length": 512,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": Array(layers, windowed),
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": per_layer,
        "expert_used_count": experts_used,
    }
    tensors: list[Named] = [("token_embd.weight", (hidden, vocabulary), Q8_0), ("output_norm.weight", (hidden,), F32)]
    if per_layer:
        tensors.append(("per_layer_token_embd.weight", (per_layer * layers, vocabulary), Q8_0))
    for at in range(layers):
        head = 256 if windowed[at] else 512
        tensors += _layer(at, hidden, width[at], heads * head, kv_heads[windowed[at]] * head, Q4_0)
    return header_of("gemma4", keys, tensors)


def _layer(at: int, hidden: int, width: int, queries: int, keys: int, kind: int) -> list[Named]:
    shapes = {
        "attn_q": (hidden, queries),
        "attn_k": (hidden, keys),
        "attn_v": (hidden, keys),
        "attn_output": (queries, hidden),
        "ffn_gate": (hidden, width),
        "ffn_up": (hidden, width),
        "ffn_down": (width, hidden),
    }
    return [(f"blk.{at}.{name}.weight", dimensions, kind) for name, dimensions in shapes.items()]


def shape(header: GgufHeader) -> Shape:
    """The shape, which is there."""
    found = shape_of(header)
    assert found is not None
    return found
