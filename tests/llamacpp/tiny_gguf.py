"""Tiny GGUF files with seeded random weights and the keys and tensors that llama.cpp wants of Gemma 3 and 4.

Half a megabyte each; they load in milliseconds and say nothing sensible, but through the true code paths.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

__all__ = ["Shape", "write_foreign", "write_gemma3", "write_gemma4", "write_projector"]

T = gguf.TokenType
SPACE = "▁"
WORDS = (
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "hello",
    "world",
    "model",
    "image",
    "cat",
    "dog",
    "red",
    "blue",
)
Token = tuple[str, gguf.TokenType]

GEMMA3_CONTROLS = (
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|file_separator|>",
)
GEMMA4_CONTROLS = ("<|turn>", "<turn|>", "<|think|>", "<|image>", "<image|>", "<|image|>", "<|tool>", "<tool|>")
GEMMA4_OWN = ("<|channel>", "<channel|>", "<|tool_call>", '<|"|>', "<table>")
TEMPLATE = "{{ bos_token }}{% for m in messages %}<start_of_turn>user\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """Sizes of a tiny model. Keep `vision_feed_forward` different from `embedding`: llama.cpp guesses by it."""

    embedding: int = 64
    layers: int = 2
    heads: int = 4
    head_size: int = 32
    feed_forward: int = 128
    context: int = 8192
    window: int = 64
    image: int = 56
    patch: int = 14
    merge: int = 2
    vision_feed_forward: int = 96


class _File:
    """A GGUF under construction."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.path = path
        self.writer = gguf.GGUFWriter(path, architecture)
        self._random = np.random.default_rng(0)

    def random(self, name: str, *shape: int, half: bool = False) -> None:
        values = self._random.standard_normal(shape) * 0.05
        self.writer.add_tensor(name, values.astype(np.float16 if half else np.float32))

    def constant(self, name: str, value: float, *shape: int) -> None:
        self.writer.add_tensor(name, np.full(shape, value, np.float32))

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def write_gemma3(path: Path, shape: Shape) -> None:
    """A text model of architecture gemma3, layers alternating between window and full attention."""
    file = _File(path, "gemma3")
    _common(file, "gemma3", shape, shape.head_size)
    file.writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    tokens = list(_base_tokens(GEMMA3_CONTROLS))
    words = [(piece, T.NORMAL) for piece in _prefixes(WORDS)]
    scores = [-100.0 if kind == T.NORMAL and text not in ("\n", SPACE) else 0.0 for text, kind in tokens]
    scores += [-float(rank) for rank in range(1, len(words) + 1)]
    tokens += words
    file.writer.add_tokenizer_model("llama")
    file.writer.add_tokenizer_pre("default")
    _vocabulary(file, tokens, scores, end="<end_of_turn>")
    file.writer.add_chat_template(TEMPLATE)
    _text_weights(file, shape, len(tokens), [shape.head_size] * shape.layers)
    file.close()


def write_gemma4(path: Path, shape: Shape) -> None:
    """A dense text model of architecture gemma4, without per-layer embeddings."""
    file = _File(path, "gemma4")
    full = shape.head_size * 2
    sliding = [index % 2 == 0 for index in range(shape.layers)]
    _common(file, "gemma4", shape, full)
    _gemma4_keys(file, shape, full, sliding)
    pieces = list(_prefixes(WORDS))
    own = [(text, T.USER_DEFINED) for text in GEMMA4_OWN]
    tokens = [*_base_tokens(GEMMA4_CONTROLS), *own, ("\n\n", T.NORMAL), *((piece, T.NORMAL) for piece in pieces)]
    file.writer.add_tokenizer_model("gemma4")
    file.writer.add_token_merges([f"{piece[:-1]} {piece[-1]}" for piece in pieces] + ["\n \n"])
    _vocabulary(file, tokens, [0.0] * len(tokens), end="<turn|>")
    rotated = int(full * 0.25 / 2)
    file.writer.add_tensor("rope_freqs.weight", np.array([1.0] * rotated + [1e30] * (full // 2 - rotated), np.float32))
    _text_weights(file, shape, len(tokens), [shape.head_size if local else full for local in sliding])
    for index in range(shape.layers):
        file.constant(f"blk.{index}.layer_output_scale.weight", 1, 1)
    file.close()


def write_projector(path: Path, shape: Shape) -> None:
    """An mmproj of type gemma3; an image takes ((image / patch) / merge) ** 2 tokens."""
    file = _File(path, "clip")
    _vision_keys(file.writer, shape)
    size = shape.embedding
    file.random("v.patch_embd.weight", size, 3, shape.patch, shape.patch)
    file.constant("v.patch_embd.bias", 0, size)
    file.random("v.position_embd.weight", (shape.image // shape.patch) ** 2, size)
    file.constant("v.post_ln.weight", 1, size)
    file.constant("v.post_ln.bias", 0, size)
    for index in range(shape.layers):
        _vision_block(file, f"v.blk.{index}.", size, shape.vision_feed_forward)
    file.random("mm.input_projection.weight", size, size, half=True)
    file.constant("mm.soft_emb_norm.weight", 1, size)
    file.close()


def write_foreign(path: Path, architecture: str) -> None:
    """A well-formed GGUF of another architecture, with a single tensor."""
    file = _File(path, architecture)
    file.constant("token_embd.weight", 0, 32, 32)
    file.close()


def _common(file: _File, architecture: str, shape: Shape, head_size: int) -> None:
    writer = file.writer
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_float32(f"{architecture}.rope.freq_base_swa", 10_000.0)
    writer.add_sliding_window(shape.window)


def _gemma4_keys(file: _File, shape: Shape, full: int, sliding: Sequence[bool]) -> None:
    writer = file.writer
    writer.add_uint32("gemma4.attention.key_length_swa", shape.head_size)
    writer.add_uint32("gemma4.attention.value_length_swa", shape.head_size)
    writer.add_rope_dimension_count(full)
    writer.add_uint32("gemma4.rope.dimension_count_swa", shape.head_size)
    writer.add_array("gemma4.attention.sliding_window_pattern", list(sliding))
    writer.add_uint32("gemma4.attention.shared_kv_layers", 0)
    writer.add_uint32("gemma4.embedding_length_per_layer_input", 0)
    writer.add_final_logit_softcapping(30.0)


def _vocabulary(file: _File, tokens: Sequence[Token], scores: Sequence[float], end: str) -> None:
    writer = file.writer
    names = [text for text, _ in tokens]
    writer.add_token_list([name.encode() for name in names])
    writer.add_token_scores(list(scores))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(names.index("<bos>"))
    writer.add_eos_token_id(names.index("<eos>"))
    writer.add_unk_token_id(names.index("<unk>"))
    writer.add_pad_token_id(names.index("<pad>"))
    writer.add_eot_token_id(names.index(end))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _base_tokens(controls: Sequence[str]) -> Iterator[Token]:
    yield from (("<pad>", T.CONTROL), ("<eos>", T.CONTROL), ("<bos>", T.CONTROL), ("<unk>", T.UNKNOWN))
    yield from ((name, T.CONTROL) for name in controls)
    yield from ((f"<0x{byte:02X}>", T.BYTE) for byte in range(256))
    yield from ((text, T.NORMAL) for text in ("\n", SPACE, *string.ascii_letters, *string.digits, *string.punctuation))


def _prefixes(words: Sequence[str]) -> Iterator[str]:
    """Every left-to-right prefix of every word: the tokenizer reaches a word by merges through all of them."""
    forms = (form for word in words for form in (word, SPACE + word))
    yield from dict.fromkeys(form[:end] for form in forms for end in range(2, len(form) + 1))


def _text_weights(file: _File, shape: Shape, vocab_size: int, head_sizes: Sequence[int]) -> None:
    file.random("token_embd.weight", vocab_size, shape.embedding)
    file.constant("output_norm.weight", 1, shape.embedding)
    for index, head_size in enumerate(head_sizes):
        _block(file, f"blk.{index}.", shape, head_size)


def _block(file: _File, prefix: str, shape: Shape, head_size: int) -> None:
    size = shape.embedding
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        file.constant(f"{prefix}{name}.weight", 1, size)
    file.random(f"{prefix}attn_q.weight", shape.heads * head_size, size)
    file.random(f"{prefix}attn_k.weight", head_size, size)
    file.random(f"{prefix}attn_v.weight", head_size, size)
    file.random(f"{prefix}attn_output.weight", size, shape.heads * head_size)
    file.constant(f"{prefix}attn_q_norm.weight", 1, head_size)
    file.constant(f"{prefix}attn_k_norm.weight", 1, head_size)
    file.random(f"{prefix}ffn_gate.weight", shape.feed_forward, size)
    file.random(f"{prefix}ffn_up.weight", shape.feed_forward, size)
    file.random(f"{prefix}ffn_down.weight", size, shape.feed_forward)


def _vision_keys(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_projection_dim(shape.embedding)
    writer.add_vision_image_size(shape.image)
    writer.add_vision_patch_size(shape.patch)
    writer.add_vision_embedding_length(shape.embedding)
    writer.add_vision_feed_forward_length(shape.vision_feed_forward)
    writer.add_vision_block_count(shape.layers)
    writer.add_vision_head_count(shape.heads)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    writer.add_vision_projector_scale_factor(shape.merge)


def _vision_block(file: _File, prefix: str, size: int, feed_forward: int) -> None:
    for name in ("ln1", "ln2"):
        file.constant(f"{prefix}{name}.weight", 1, size)
        file.constant(f"{prefix}{name}.bias", 0, size)
    matrices = [(name, size, size) for name in ("attn_q", "attn_k", "attn_v", "attn_out")]
    for name, out, into in (*matrices, ("ffn_up", feed_forward, size), ("ffn_down", size, feed_forward)):
        file.random(f"{prefix}{name}.weight", out, into)
        file.constant(f"{prefix}{name}.bias", 0, out)
