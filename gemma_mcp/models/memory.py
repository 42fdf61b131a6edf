"""How much memory a model will take under given terms, from headers alone. All of it is llama.cpp's way.

Source of the formulas: `llama-kv-cache.cpp`, `llama-context.cpp` (`sched_reserve`) and `ggml-cpu.c` of llama.cpp
b11312; the widths of the passes and the constants were measured, see `benchmarks/fit.py`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from gemma_mcp.models.gguf import GgufHeader
from gemma_mcp.models.shape import Layer, Shape

__all__ = ["GUESSED_ROWS", "Encoder", "Estimate", "Need", "Terms", "encoder_of", "estimate", "kv_cells"]

KvType = Literal["f16", "q8_0"]

LOOKED_UP_TOKENS = 32_768
"""Different tokens that a worker comes to see; only their rows of a table that is looked up in take memory."""

CELL_BYTES = 150
"""A cell's position, its slots and its places in two sets, beside keys and values."""

TOKEN_BYTES, MERGE_BYTES = 160, 108
"""Of the vocabulary in memory: a token's text and number both ways, a merge of two tokens."""

TENSOR_BYTES = 9_600
"""llama.cpp keeps three graphs, each with room for eight nodes of 400 bytes for every tensor of the file."""

GUESSED_ROWS = 16
"""Rows of logits for guesses, beside one for each slot: DRAFT_TOKENS of the llama.cpp backend."""

WORKER_BYTES = 58 << 20
"""A worker with its runtime and no model: Python, NumPy, llama.cpp's libraries."""

GPU_RUNTIME_BYTES = 512 << 20
"""What a GPU's driver and its matrix library take beside llama.cpp's buffers."""

WORK_SHARE = 1.15
"""A CPU rewrites the input of a matrix product in the 8-bit blocks of its kernels: bytes for each number."""

PICTURE_BYTES = 16 << 20
"""A picture of a megapixel, decoded and handed on; what callers send may be smaller or larger."""

SQUARE_BYTES = 24
"""For each pixel of the encoder's own size: the picture scaled and normalised."""

GEMMA4_TOKENS, GEMMA4_MERGE = 1120, 3
"""Of the largest image of Gemma 4; three by three patches become one token."""

MERGE = 4
"""Of the other projectors, if they do not say."""


@dataclass(frozen=True)
class Terms:
    """How a model is to be loaded. `context`: tokens of one slot. `gpu_layers`: -1 for all, the output layer is one."""

    context: int
    slots: int
    step_tokens: int
    kv_type: KvType = "f16"
    gpu_layers: int = 0
    flash_attention: bool = True
    swa_full: bool = False


@dataclass(frozen=True)
class Encoder:
    """What a projector needs: its weights, and while it looks at the largest image, which has `most_tokens`."""

    weight_bytes: int
    compute_bytes: int
    most_tokens: int = 0


@dataclass(frozen=True)
class Need:
    """Bytes of one memory, the machine's or a GPU's."""

    weight_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    encoder_bytes: int = 0
    process_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.kv_bytes + self.compute_bytes + self.encoder_bytes + self.process_bytes


@dataclass(frozen=True)
class Estimate:
    """What a model needs of the machine's memory, and of the GPU's."""

    host: Need
    gpu: Need = Need()


def encoder_of(header: GgufHeader) -> Encoder:
    """The encoder in a projector's file."""
    side, patch = (int(header.number(f"clip.vision.{key}") or 1) for key in ("image_size", "patch_size"))
    hidden, width = (
        int(header.number(f"clip.vision.{key}") or 0) for key in ("embedding_length", "feed_forward_length")
    )
    kind = header.text("clip.projector_type") or header.text("clip.vision.projector_type")
    merge = max(1, int(header.number("clip.vision.projector.scale_factor") or MERGE))
    patches = (side // max(1, patch)) ** 2
    tokens = patches // merge**2
    if kind.startswith("gemma4"):
        patches, tokens = GEMMA4_TOKENS * GEMMA4_MERGE**2, GEMMA4_TOKENS
    pixels = patches * patch * patch
    return Encoder(
        weight_bytes=sum(tensor.size_bytes for tensor in header.tensors),
        compute_bytes=patches * (4 * (width + 3 * hidden) + 2 * width) + pixels * SQUARE_BYTES + PICTURE_BYTES,
        most_tokens=tokens,
    )


def estimate(shape: Shape, terms: Terms, encoder: Encoder | None = None) -> Estimate:
    """What the model takes under these terms when every cell of its KV cache is in use."""
    terms = _as_loaded(shape, terms, encoder)
    count = len(shape.layers)
    on_gpu = count + 1 if terms.gpu_layers < 0 else min(terms.gpu_layers, count + 1)
    first = max(0, count + 1 - on_gpu)
    below, above = shape.layers[:first], shape.layers[first:]
    output_on_gpu = on_gpu > 0
    host = Need(
        weight_bytes=_weights(below) + (0 if output_on_gpu else _output(shape)) + _tables(shape, output_on_gpu),
        kv_bytes=_kv(shape, below, terms),
        compute_bytes=_compute(shape, terms) + _work(shape, terms) if below else _inputs(shape, terms),
        encoder_bytes=_encoder(encoder, here=not output_on_gpu),
        process_bytes=WORKER_BYTES + _vocabulary(shape) + _bookkeeping(shape, terms) + _guesses(shape),
    )
    if not output_on_gpu:
        return Estimate(host)
    gpu = Need(
        weight_bytes=_weights(above) + _output(shape),
        kv_bytes=_kv(shape, above, terms),
        compute_bytes=_compute(shape, terms),
        encoder_bytes=_encoder(encoder, here=True),
        process_bytes=GPU_RUNTIME_BYTES,
    )
    return Estimate(host, gpu)


def kv_cells(shape: Shape, terms: Terms) -> tuple[int, int]:
    """Cells of the layers that attend to everything, and of those with a window."""
    full = _padded(terms.context * terms.slots)
    if terms.swa_full:
        return full, full
    return full, _padded(min(full, shape.window * terms.slots + min(full, terms.step_tokens)))


def _as_loaded(shape: Shape, terms: Terms, encoder: Encoder | None) -> Terms:
    """No slot holds more than the model was made for, and an image is computed in one pass."""
    context = min(terms.context, shape.context_length or terms.context)
    return replace(terms, context=context, step_tokens=max(terms.step_tokens, encoder.most_tokens if encoder else 0))


def _padded(cells: int) -> int:
    return -(-cells // 256) * 256


def _weights(layers: tuple[Layer, ...]) -> int:
    return sum(layer.weight_bytes for layer in layers)


def _output(shape: Shape) -> int:
    """The output layer's matrix is read whole at every pass, also where it is the table of the tokens."""
    return shape.output_bytes + (shape.token_table_bytes if shape.tied else 0)


def _tables(shape: Shape, output_on_gpu: bool) -> int:
    """Rows of tables that lie in the file: they come into memory when they are read."""
    beside = shape.token_table_bytes if not shape.tied or shape.tied_copied or output_on_gpu else 0
    share = min(1.0, LOOKED_UP_TOKENS / shape.vocabulary)
    return int((beside + shape.layer_table_bytes) * share)


def _kv(shape: Shape, layers: tuple[Layer, ...], terms: Terms) -> int:
    full, window = kv_cells(shape, terms)
    total = 0
    for layer in layers:
        if layer.own_kv:
            values = layer.values if terms.flash_attention else shape.values  # it pads them when it transposes
            row = _row(layer.keys, terms.kv_type) + _row(values, terms.kv_type)
            total += row * (window if layer.windowed else full)
    return total


def _row(numbers: int, kv_type: KvType) -> int:
    return numbers * 2 if kv_type == "f16" else -(-numbers // 32) * 34


def _tokens(shape: Shape, terms: Terms) -> int:
    """Of the largest pass."""
    return min(terms.step_tokens, kv_cells(shape, terms)[0])


def _masks(shape: Shape, terms: Terms) -> int:
    """For each token of a pass, which cells it sees."""
    full, window = kv_cells(shape, terms)
    cells = full * any(not layer.windowed for layer in shape.layers) + window * bool(shape.window)
    return cells * _tokens(shape, terms) * (2 if terms.flash_attention else 4)


def _compute(shape: Shape, terms: Terms) -> int:
    """The buffer that a pass's intermediate results share, and the logits that it leaves."""
    logits = terms.slots * shape.vocabulary * 4
    width = max(_feed_forward(shape), _attention(shape, terms)) + shape.layer_inputs
    if shape.streams > 1:
        width += shape.hidden * shape.streams
    return _masks(shape, terms) + max(_tokens(shape, terms) * width * 4, logits) + logits


def _feed_forward(shape: Shape) -> int:
    """Numbers for each token that are alive together in the widest layer's feed-forward part."""
    dense = 3 * shape.feed_forward + 3 * shape.hidden + shape.queries
    if shape.layer_inputs:
        dense += shape.hidden
    return max(dense, 2 * shape.hidden * (shape.experts_used + 1))


def _attention(shape: Shape, terms: Terms) -> int:
    """The same in the attention: without flash attention every token's weights for every cell are written down."""
    if terms.flash_attention:
        return 0
    full, window = kv_cells(shape, terms)
    return max(
        layer.heads * (window if layer.windowed else full) + 3 * shape.hidden + 4 * layer.queries
        for layer in shape.layers
    )


def _work(shape: Shape, terms: Terms) -> int:
    return int(_tokens(shape, terms) * max(shape.feed_forward, shape.queries) * WORK_SHARE)


def _inputs(shape: Shape, terms: Terms) -> int:
    """What the machine itself prepares for a GPU's pass, and the logits that come back."""
    prepared = _tokens(shape, terms) * (shape.hidden + shape.layer_inputs) * 4
    return _masks(shape, terms) + prepared + terms.slots * shape.vocabulary * 4


def _encoder(encoder: Encoder | None, *, here: bool) -> int:
    return encoder.weight_bytes + encoder.compute_bytes if encoder and here else 0


def _vocabulary(shape: Shape) -> int:
    return shape.vocabulary * TOKEN_BYTES + shape.merges * MERGE_BYTES


def _guesses(shape: Shape) -> int:
    """The logits by which guesses are checked."""
    return GUESSED_ROWS * shape.vocabulary * 4


def _bookkeeping(shape: Shape, terms: Terms) -> int:
    return sum(kv_cells(shape, terms)) * CELL_BYTES + shape.tensors * TENSOR_BYTES
