"""A GGUF file of random weights in F16: as large, as slow and as wordy as a real Gemma, without any sense in it.

The embeddings of tokens that are no text are zero. The output shares them, so those tokens' logits are 0, and among a
vocabulary of random ones that is never the greatest: a greedy reply goes on as long as it may, on any engine.
"""

import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import numpy as np

from gemma_mcp.bench.gguf_draft import F16, F32, PlannedTensor, Value, write_gguf
from gemma_mcp.bench.shapes import MADE_BY, Shape, Tensor
from gemma_mcp.bench.vocabulary import CONTROLS, SPECIALS, synthetic_tokens

__all__ = ["write_random"]

MOSTLY_F16 = 1
PIECE_VALUES = 1 << 20
DISTINCT = 1 << 16
"""So many different values a tensor may have; they are looked up by random numbers of 16 bits, which is fast."""

EMBEDDING_SHARE = 0.3
"""What a token brings along, beside what each layer adds. With more of it, the likeliest next token is the same one."""

ATTENTION_SHARE = 0.1
"""Of what a layer adds. Random attention says the same at every token; with more of it, replies repeat one word."""

WEIGHTS_SHARE = 0.6

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }} "
    "{{ m['content'] }}<end_of_turn> {% endfor %}{% if add_generation_prompt %}<start_of_turn>model {% endif %}"
)


def write_random(path: Path, shape: Shape, progress: Callable[[float], None], seed: int = 0) -> None:
    """Write the file. `progress` is told the share that is done. Raises OSError."""
    done, total = 0, sum(math.prod(tensor.shape) for tensor in shape.tensors())

    def told(tensor: Tensor) -> Iterator[bytes]:
        nonlocal done
        for piece in _norms(tensor) if tensor.norm else _randoms(tensor, shape, seed):
            yield piece
            done += len(piece) // (4 if tensor.norm else 2)
            progress(done / total)

    planned = [
        PlannedTensor(tensor.name, tensor.shape, F32 if tensor.norm else F16, told(tensor))
        for tensor in shape.tensors()
    ]
    with path.open("wb") as file:
        write_gguf(file, _metadata(shape), planned)


def _norms(tensor: Tensor) -> Iterator[bytes]:
    weight = ATTENTION_SHARE if "post_attention" in tensor.name else 1.0
    yield array("f", [weight] * math.prod(tensor.shape)).tobytes()


def _randoms(tensor: Tensor, shape: Shape, seed: int) -> Iterator[bytes]:
    numbers = np.random.default_rng([seed, crc32(tensor.name.encode())])
    embeddings = tensor.name == "token_embd.weight"
    scale = EMBEDDING_SHARE / math.sqrt(shape.width) if embeddings else WEIGHTS_SHARE / math.sqrt(tensor.shape[0])
    table = (numbers.standard_normal(DISTINCT) * scale).astype(np.float16)
    values = math.prod(tensor.shape)
    if embeddings:
        yield bytes(2 * SPECIALS * shape.width)
        values -= SPECIALS * shape.width
    for start in range(0, values, PIECE_VALUES):
        count = min(PIECE_VALUES, values - start)
        yield table[numbers.integers(0, DISTINCT, count, np.uint16)].tobytes()


def _metadata(shape: Shape) -> dict[str, Value]:
    name = shape.architecture
    metadata: dict[str, Value] = {
        "general.architecture": name,
        "general.name": f"synthetic {shape.name}",
        "general.author": MADE_BY,
        "general.file_type": MOSTLY_F16,
        "general.quantization_version": 2,
        f"{name}.context_length": shape.context,
        f"{name}.embedding_length": shape.width,
        f"{name}.block_count": shape.layers,
        f"{name}.feed_forward_length": shape.feed_forward,
        f"{name}.attention.head_count": shape.heads,
        f"{name}.attention.head_count_kv": shape.kv_heads,
        f"{name}.attention.key_length": shape.head_size,
        f"{name}.attention.value_length": shape.head_size,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{name}.attention.sliding_window": shape.window,
    }
    return metadata | _own_keys(shape) | _vocabulary(shape.vocabulary)


def _own_keys(shape: Shape) -> dict[str, Value]:
    if shape.architecture == "gemma2":
        return {"gemma2.attn_logit_softcapping": 50.0, "gemma2.final_logit_softcapping": 30.0}
    keys: dict[str, Value] = {"gemma3.rope.freq_base": 1e6}
    if shape.context > 32768:
        keys |= {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    return keys


def _vocabulary(size: int) -> dict[str, Value]:
    tokens = list(synthetic_tokens(size))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [token.text for token in tokens],
        "tokenizer.ggml.scores": [token.score for token in tokens],
        "tokenizer.ggml.token_type": [token.kind for token in tokens],
        "tokenizer.ggml.bos_token_id": CONTROLS.index("<bos>"),
        "tokenizer.ggml.eos_token_id": CONTROLS.index("<eos>"),
        "tokenizer.ggml.eot_token_id": CONTROLS.index("<end_of_turn>"),
        "tokenizer.ggml.unknown_token_id": CONTROLS.index("<unk>"),
        "tokenizer.ggml.padding_token_id": CONTROLS.index("<pad>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": TEMPLATE,
    }
