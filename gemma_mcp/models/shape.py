"""What a model's need of memory depends on, out of its header: layers, heads, the window, where its weights go."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gemma_mcp.models.gguf import GgufHeader, TensorInfo

__all__ = ["Layer", "Shape", "shape_of"]

PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5}
"""Every so many layers one attends to everything, where a file does not say which: llama.cpp's `load_swa_pattern`."""

GEMMA2_WINDOW = 4096
"""Of Gemma 2 files that do not name theirs."""

GEMMA3N_OWN_KV = 20
"""Layers of Gemma 3n that have a KV cache of their own; llama.cpp does not read it from the file."""

MAX_LAYERS = 512
"""As many as llama.cpp's arrays hold."""

REPACKED_ON_ARM = frozenset({2, 8, 12, 13, 14, 20})
REPACKED_ELSEWHERE = frozenset({2, 12, 20, 39})
"""ggml types that llama.cpp copies into an order of its own: Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL; Q4_0, Q4_K, IQ4_NL,
MXFP4. Source: `ggml_repack_get_optimal_repack_type`, for processors with dot products and with AVX2."""

TOKEN_TABLE = "token_embd.weight"
LAYER_TABLE = "per_layer_token_embd.weight"
"""Tables of which a pass reads the rows of its tokens alone. The first is often the output layer's matrix, too."""


@dataclass(frozen=True)
class Layer:
    """One layer. Its queries, keys, values and its feed-forward part in numbers for each token; `own_kv` is false where
    it reads the KV cache of an earlier one.
    """

    heads: int
    queries: int
    keys: int
    values: int
    windowed: bool
    own_kv: bool
    feed_forward: int
    weight_bytes: int


@dataclass(frozen=True)
class Shape:
    """A model. Bytes are those of its tensors in the file.

    `output_bytes`: what stands beside the layers, without the tables. `tied`: the table of the tokens is the output
    layer's matrix, too; `tied_copied`: llama.cpp keeps a reordered copy of it for that. `layer_inputs`: numbers that
    each token carries for the layers to come (Gemma 3n and 4), and `streams` how often it carries its own (Gemma 3n).
    """

    layers: tuple[Layer, ...]
    hidden: int
    vocabulary: int
    merges: int
    tensors: int
    window: int
    context_length: int
    output_bytes: int
    token_table_bytes: int
    layer_table_bytes: int
    tied: bool
    tied_copied: bool
    layer_inputs: int
    streams: int
    experts_used: int

    @cached_property
    def feed_forward(self) -> int:
        """Of the widest layer."""
        return max(layer.feed_forward for layer in self.layers)

    @cached_property
    def queries(self) -> int:
        """Of the widest layer."""
        return max(layer.queries for layer in self.layers)

    @cached_property
    def values(self) -> int:
        """Of the widest layer."""
        return max(layer.values for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """All tensors of the file."""
        layers = sum(layer.weight_bytes for layer in self.layers)
        return layers + self.output_bytes + self.token_table_bytes + self.layer_table_bytes


def shape_of(header: GgufHeader) -> Shape | None:
    """The shape of a Gemma text model; None when its header lacks what that takes."""
    prefix = header.architecture
    hidden = _count(header, "embedding_length")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    table = tensors.get(TOKEN_TABLE)
    layers = _layers(header)
    if not layers or hidden < 1 or table is None or len(table.shape) != 2 or not table.shape[1]:
        return None
    tied = "output.weight" not in tensors
    layer_table = tensors.get(LAYER_TABLE)
    tables = (TOKEN_TABLE, LAYER_TABLE)
    return Shape(
        layers=layers,
        hidden=hidden,
        vocabulary=table.shape[1],
        merges=header.length("tokenizer.ggml.merges"),
        tensors=len(header.tensors),
        window=_window(header) if any(layer.windowed for layer in layers) else 0,
        context_length=_count(header, "context_length"),
        output_bytes=_size(one for one in header.tensors if one.name not in tables and not _at(one)),
        token_table_bytes=table.size_bytes,
        layer_table_bytes=layer_table.size_bytes if layer_table else 0,
        tied=tied,
        tied_copied=tied and table.kind in _repacked(),
        layer_inputs=len(layers) * int(header.number(f"{prefix}.embedding_length_per_layer_input") or 0),
        streams=max(1, _count(header, "altup.num_inputs")),
        experts_used=_count(header, "expert_used_count"),
    )


def _count(header: GgufHeader, key: str) -> int:
    return int(header.number(f"{header.architecture}.{key}") or 0)


def _layers(header: GgufHeader) -> tuple[Layer, ...]:
    count = _count(header, "block_count")
    if not 1 <= count <= MAX_LAYERS:
        return ()
    windowed = _windowed(header, count)
    heads = header.per_layer(f"{header.architecture}.attention.head_count", count)
    if min(heads) < 1:
        return ()
    kv_heads = header.per_layer(f"{header.architecture}.attention.head_count_kv", count)
    widths = header.per_layer(f"{header.architecture}.feed_forward_length", count)
    own = _own_kv(header, count)
    sizes = _sizes(header.tensors, count)
    return tuple(
        Layer(
            heads=heads[at],
            queries=heads[at] * _head(header, "key", windowed[at], heads),
            keys=(kv_heads[at] or heads[at]) * _head(header, "key", windowed[at], heads),
            values=(kv_heads[at] or heads[at]) * _head(header, "value", windowed[at], heads),
            windowed=windowed[at],
            own_kv=at < own,
            feed_forward=widths[at],
            weight_bytes=sizes[at],
        )
        for at in range(count)
    )


def _head(header: GgufHeader, what: str, windowed: bool, heads: Sequence[int]) -> int:
    """The length of a head's key or value."""
    plain = _count(header, f"attention.{what}_length") or _count(header, "embedding_length") // max(1, heads[0])
    return (windowed and _count(header, f"attention.{what}_length_swa")) or plain


def _windowed(header: GgufHeader, count: int) -> list[bool]:
    """Which layers see a window of the text alone."""
    if not _window(header):
        return [False] * count
    key = f"{header.architecture}.attention.sliding_window_pattern"
    if header.length(key):
        return [bool(one) for one in header.per_layer(key, count)]
    period = int(header.number(key) or PATTERNS.get(header.architecture, 1))
    return [period == 0 or at % period < period - 1 for at in range(count)]


def _window(header: GgufHeader) -> int:
    default = GEMMA2_WINDOW if header.architecture == "gemma2" else 0
    return _count(header, "attention.sliding_window") or default


def _own_kv(header: GgufHeader, count: int) -> int:
    """How many layers, from the first, have a KV cache of their own."""
    if header.architecture == "gemma3n":
        return GEMMA3N_OWN_KV
    return count - _count(header, "attention.shared_kv_layers")


def _at(tensor: TensorInfo) -> str:
    """The number of the layer that a tensor belongs to, empty for one that belongs to none."""
    block, number, *_ = (*tensor.name.split("."), "", "")
    return number if block == "blk" else ""


def _sizes(tensors: Iterable[TensorInfo], count: int) -> list[int]:
    sizes = [0] * count
    for tensor in tensors:
        number = _at(tensor)
        if number.isdecimal() and int(number) < count:
            sizes[int(number)] += tensor.size_bytes
    return sizes


def _size(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)


def _repacked() -> frozenset[int]:
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return REPACKED_ON_ARM if arm else REPACKED_ELSEWHERE
