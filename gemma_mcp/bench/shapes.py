"""The real shapes of some Gemma models: what a file of random weights needs to cost as much as the real one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["MADE_BY", "SHAPES", "Shape", "Tensor"]

MADE_BY = "gemma-mcp bench"
"""`general.author` of files with random weights: in their vocabulary each word of three letters is a token."""


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: its shape, innermost dimension first; `norm` tensors hold ones in F32."""

    name: str
    shape: tuple[int, ...]
    norm: bool = False


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. `window`: tokens of the sliding window; `context`: tokens that the model is made for."""

    name: str
    architecture: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    window: int
    context: int
    vocabulary: int

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, the embeddings first; they are the output's weights, too."""
        yield Tensor("token_embd.weight", (self.width, self.vocabulary))
        yield Tensor("output_norm.weight", (self.width,), norm=True)
        for index in range(self.layers):
            yield from self._block(f"blk.{index}.")

    def _block(self, prefix: str) -> Iterator[Tensor]:
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            yield Tensor(f"{prefix}{name}.weight", (self.width,), norm=True)
        if self.architecture == "gemma3":
            for name in ("attn_q_norm", "attn_k_norm"):
                yield Tensor(f"{prefix}{name}.weight", (self.head_size,), norm=True)
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        yield Tensor(f"{prefix}attn_q.weight", (self.width, queries))
        yield Tensor(f"{prefix}attn_k.weight", (self.width, keys))
        yield Tensor(f"{prefix}attn_v.weight", (self.width, keys))
        yield Tensor(f"{prefix}attn_output.weight", (queries, self.width))
        yield Tensor(f"{prefix}ffn_gate.weight", (self.width, self.feed_forward))
        yield Tensor(f"{prefix}ffn_up.weight", (self.width, self.feed_forward))
        yield Tensor(f"{prefix}ffn_down.weight", (self.feed_forward, self.width))


_ALL = (
    Shape("gemma-3-270m", "gemma3", 18, 640, 2048, 4, 1, 256, 512, 32768, 262_144),
    Shape("gemma-3-1b", "gemma3", 26, 1152, 6912, 4, 1, 256, 512, 32768, 262_144),
    Shape("gemma-3-4b", "gemma3", 34, 2560, 10240, 8, 4, 256, 1024, 131072, 262_144),
    Shape("gemma-2-2b", "gemma2", 26, 2304, 9216, 8, 4, 256, 4096, 8192, 256_000),
)

SHAPES: Mapping[str, Shape] = MappingProxyType({shape.name: shape for shape in _ALL})
"""By name, as the makers publish them (google-deepmind/gemma)."""
