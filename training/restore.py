"""Reads GGUF files back into a checkpoint: `python -m training.restore FOLDER`. The inverse of `training.export`.

Training can so go on from the shipped files. Q8_0 rounds, so the checkpoint equals the exported one only nearly. The
vocabulary is the file's own, or with `--narrow` the part of it that today's rules would choose.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import gguf
import torch
from torch import Tensor

from training.data import WORK, vocabulary_words
from training.export import BLOCK_MATRICES, BLOCK_NORMS, KINDS, TOWER_PARTS
from training.model import Config
from training.tokenizer import SPACE, Piece, Tokenizer, build
from training.train_text import save


class Stored:
    """A GGUF file's tensors as f32."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}

    def get(self, name: str, plus: float = 0.0) -> Tensor:
        """A tensor by its name in the file; `plus` takes Gemma's "+1" off its norms."""
        tensor = self.tensors[name]
        return torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()) - plus


def read_text(file: Stored, config: Config) -> dict[str, Tensor]:
    """The text model's state."""
    state = {
        "embedding.weight": file.get("token_embd.weight"),
        "norm.weight": file.get("output_norm.weight", plus=1),
    }
    for i in range(config.layers):
        for name, key in BLOCK_NORMS.items():
            state[f"blocks.{i}.{key}.weight"] = file.get(f"blk.{i}.{name}.weight", plus=1)
        for name, key in BLOCK_MATRICES.items():
            state[f"blocks.{i}.{key}.weight"] = file.get(f"blk.{i}.{name}.weight")
    return state


def read_tower(file: Stored, config: Config) -> dict[str, Tensor]:
    """The image tower's state."""
    state = {
        "patch.weight": file.get("v.patch_embd.weight").reshape(config.vision_width, -1),
        "patch.bias": file.get("v.patch_embd.bias"),
        "position": file.get("v.position_embd.weight"),
        "projection": file.get("mm.input_projection.weight"),
        "soft_norm.weight": file.get("mm.soft_emb_norm.weight", plus=1),
    }
    for kind in ("weight", "bias"):
        state[f"post.{kind}"] = file.get(f"v.post_ln.{kind}")
        for i in range(config.vision_layers):
            for name, key in TOWER_PARTS.items():
                state[f"blocks.{i}.{key}.{kind}"] = file.get(f"v.blk.{i}.{name}.{kind}")
    return state


def read_tokenizer(file: Stored) -> Tokenizer:
    """The vocabulary that a text file carries."""
    kinds = {int(number): letter for letter, number in KINDS.items()}
    fields = [file.reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")]
    return Tokenizer([Piece(text, score, kinds[kind]) for text, score, kind in zip(*fields, strict=True)])


def narrowed(embedding: Tensor, old: Tokenizer, new: Tokenizer) -> Tensor:
    """The rows of the pieces that a smaller vocabulary keeps."""
    return embedding[[old.id[piece.text] for piece in new.pieces]].clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--narrow", action="store_true", help="keep only words that are still worth a token")
    parser.add_argument("--out", type=Path, default=WORK / "restored.pt")
    options = parser.parse_args()
    text, tower = Stored(options.folder / "starter.gguf"), Stored(options.folder / "mmproj.gguf")
    stored = tokenizer = read_tokenizer(text)
    if options.narrow:
        tokenizer = Tokenizer(build(word for word in vocabulary_words() if SPACE + word in stored.normal))
    config = Config(vocabulary=len(tokenizer))
    state = read_text(text, config)
    state["embedding.weight"] = narrowed(state["embedding.weight"], stored, tokenizer)
    WORK.mkdir(exist_ok=True)
    tokenizer.save(WORK / "tokenizer.json")
    save(options.out, text=state, vision=read_tower(tower, config), config=asdict(config), step=0)
    print(f"vocabulary {len(tokenizer)}, written to {options.out}")


if __name__ == "__main__":
    main()
