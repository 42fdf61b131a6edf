"""Writes a checkpoint as GGUF: `python -m training.export CHECKPOINT FOLDER`.

The text model as Q8_0 (norms F32), the image tower as F16. Norm weights are stored with Gemma's "+1" added.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from training.data import WORK
from training.model import Config
from training.tokenizer import Tokenizer

NAME = "gemma-mcp starter (toy)"
DESCRIPTION = (
    "A toy model of the Gemma 3 architecture, trained by the gemma-mcp project on data its own scripts generate."
)
KINDS = {
    "C": gguf.TokenType.CONTROL, "U": gguf.TokenType.UNKNOWN,
    "B": gguf.TokenType.BYTE, "N": gguf.TokenType.NORMAL,
}  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% set ns = namespace(sys='', last='') %}{% for m in messages %}"
    "{% set c = m['content'] %}"
    "{% if m['role'] == 'system' %}{% set ns.sys = (c if c is string else c[0]['text']) + '\n\n' %}{% else %}"
    "{% if m['role'] == ns.last %}{{ raise_exception('two turns of one role in a row') }}{% endif %}"
    "{% set ns.last = m['role'] %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}{{ "
    "'\n' + ns.sys }}{% set ns.sys = '' %}"
    "{% if c is string %}{{ c | trim }}{% else %}{% for p in c %}"
    "{% if p['type'] == 'text' %}{{ p['text'] |"
    " trim }}{% else %}<start_of_image>{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
BLOCK_NORMS = dict(
    attn_norm="norm_in", post_attention_norm="norm_attention", ffn_norm="norm_ff_in", post_ffw_norm="norm_ff",
    attn_q_norm="norm_q", attn_k_norm="norm_k",
)  # fmt: skip
BLOCK_MATRICES = dict(
    attn_q="q", attn_k="k", attn_v="v", attn_output="o", ffn_gate="gate", ffn_up="up", ffn_down="down"
)
TOWER_PARTS = dict(ln1="ln1", ln2="ln2", attn_q="q", attn_k="k", attn_v="v", attn_out="o", ffn_up="up", ffn_down="down")


class File:
    """A GGUF file being written from one state dict."""

    def __init__(self, path: Path, architecture: str, name: str, state: dict[str, Tensor], kind: gguf.LlamaFileType):
        self.writer = gguf.GGUFWriter(str(path), architecture)
        self.state = state
        self.writer.add_name(name)
        self.writer.add_description(DESCRIPTION)
        self.writer.add_license("apache-2.0")
        self.writer.add_organization("gemma-mcp")
        self.writer.add_file_type(kind)
        self.writer.add_quantization_version(2)

    def array(self, key: str) -> np.ndarray:
        return np.ascontiguousarray(self.state[key].float().numpy())

    def f32(self, name: str, key: str, plus: float = 0.0) -> None:
        self.writer.add_tensor(name, self.array(key) + np.float32(plus))

    def f16(self, name: str, key: str, shape: tuple[int, ...] | None = None) -> None:
        array = self.array(key)
        self.writer.add_tensor(name, (array.reshape(shape) if shape else array).astype(np.float16))

    def q8(self, name: str, key: str) -> None:
        blocks = gguf.quants.quantize(self.array(key), GGMLQuantizationType.Q8_0)
        self.writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def _text_keys(w: gguf.GGUFWriter, c: Config) -> None:
    w.add_context_length(c.context)
    w.add_embedding_length(c.width)
    w.add_block_count(c.layers)
    w.add_feed_forward_length(c.ff)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_key_length(c.head_size)
    w.add_value_length(c.head_size)
    w.add_layer_norm_rms_eps(c.epsilon)
    w.add_rope_freq_base(c.rope_global)
    w.add_rope_freq_base_swa(c.rope_local)
    w.add_sliding_window(c.window)
    w.add_uint32("gemma3.attention.sliding_window_pattern", c.pattern)


def _tokenizer_keys(w: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([piece.text.encode() for piece in tokenizer.pieces])
    w.add_token_scores([piece.score for piece in tokenizer.pieces])
    w.add_token_types([KINDS[piece.kind] for piece in tokenizer.pieces])
    w.add_pad_token_id(0)
    w.add_eos_token_id(1)
    w.add_bos_token_id(2)
    w.add_unk_token_id(3)
    w.add_eot_token_id(tokenizer.id["<end_of_turn>"])
    for key, token in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle")):
        w.add_uint32(f"tokenizer.ggml.fim_{key}_token_id", tokenizer.id[f"<|fim_{token}|>"])
    w.add_uint32("tokenizer.ggml.fim_sep_token_id", tokenizer.id["<|file_separator|>"])
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(TEMPLATE)


def write_text(path: Path, state: dict[str, Tensor], config: Config, tokenizer: Tokenizer) -> None:
    file = File(path, "gemma3", NAME, state, gguf.LlamaFileType.MOSTLY_Q8_0)
    _text_keys(file.writer, config)
    _tokenizer_keys(file.writer, tokenizer)
    for key, value in (("temp", 0.0), ("min_p", 0.0), ("top_p", 1.0)):
        file.writer.add_float32(f"general.sampling.{key}", value)
    file.q8("token_embd.weight", "embedding.weight")
    file.f32("output_norm.weight", "norm.weight", plus=1)
    for i in range(config.layers):
        for name, key in BLOCK_NORMS.items():
            file.f32(f"blk.{i}.{name}.weight", f"blocks.{i}.{key}.weight", plus=1)
        for name, key in BLOCK_MATRICES.items():
            file.q8(f"blk.{i}.{name}.weight", f"blocks.{i}.{key}.weight")
    file.close()


def _tower_keys(w: gguf.GGUFWriter, c: Config) -> None:
    w.add_type("mmproj")
    w.add_clip_has_vision_encoder(True)
    w.add_clip_projector_type("gemma3")
    w.add_vision_projection_dim(c.width)
    w.add_vision_image_size(c.image_size)
    w.add_vision_patch_size(c.patch)
    w.add_vision_embedding_length(c.vision_width)
    w.add_vision_feed_forward_length(c.vision_ff)
    w.add_vision_block_count(c.vision_layers)
    w.add_vision_head_count(c.vision_heads)
    w.add_vision_attention_layernorm_eps(1e-6)
    w.add_vision_image_mean([0.5] * 3)
    w.add_vision_image_std([0.5] * 3)
    w.add_vision_use_gelu(True)
    w.add_vision_projector_scale_factor(c.merge)


def write_tower(path: Path, state: dict[str, Tensor], config: Config) -> None:
    file = File(path, "clip", f"{NAME} image tower", state, gguf.LlamaFileType.MOSTLY_F16)
    _tower_keys(file.writer, config)
    file.f16("v.patch_embd.weight", "patch.weight", (config.vision_width, 3, config.patch, config.patch))
    file.f32("v.patch_embd.bias", "patch.bias")
    file.f32("v.position_embd.weight", "position")
    for kind in ("weight", "bias"):
        file.f32(f"v.post_ln.{kind}", f"post.{kind}")
    for i in range(config.vision_layers):
        for name, key in TOWER_PARTS.items():
            put = file.f32 if name.startswith("ln") else file.f16
            put(f"v.blk.{i}.{name}.weight", f"blocks.{i}.{key}.weight")
            file.f32(f"v.blk.{i}.{name}.bias", f"blocks.{i}.{key}.bias")
    file.f16("mm.input_projection.weight", "projection")
    file.f32("mm.soft_emb_norm.weight", "soft_norm.weight", plus=1)
    file.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--average", action="store_true", help="the running average of the weights")
    options = parser.parse_args()
    stored = torch.load(options.checkpoint, map_location="cpu")
    config = Config(**stored["config"])
    ending = "_average" if options.average else ""
    options.folder.mkdir(parents=True, exist_ok=True)
    write_text(
        options.folder / "starter.gguf",
        stored[f"text{ending}"],
        config,
        Tokenizer.load(WORK / "tokenizer.json"),
    )
    if "vision" in stored:
        write_tower(options.folder / "mmproj.gguf", stored[f"vision{ending}"], config)
    for path in sorted(options.folder.glob("*.gguf")):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
