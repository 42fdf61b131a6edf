"""Gemma 3 in PyTorch, small: the text model, the SigLIP-like image tower and its projector.

Every choice follows what llama.cpp computes for architectures `gemma3` and `clip` (projector `gemma3`), so
that the exported file gives the same tokens.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Config:
    """Sizes. `vision_ff` must differ from `vision_width`: llama.cpp swaps up and down when they are equal."""

    vocabulary: int = 1500
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    ff: int = 768
    window: int = 512
    pattern: int = 3
    epsilon: float = 1e-6
    rope_global: float = 1e6
    rope_local: float = 1e4
    context: int = 2048
    vision_width: int = 192
    vision_layers: int = 4
    vision_heads: int = 4
    vision_ff: int = 512
    image_size: int = 112
    patch: int = 14
    merge: int = 2

    @property
    def grid(self) -> int:
        """Image tokens per side."""
        return self.image_size // self.patch // self.merge

    @property
    def image_tokens(self) -> int:
        return self.grid**2


class Norm(nn.Module):
    """Gemma's RMS norm: the weight is stored around zero and used as 1 + w."""

    def __init__(self, size: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], (1 + self.weight).to(x.dtype), self.epsilon)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the two halves of each head."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in f32: torch's batched bf16 products are about a hundred times slower on a CPU."""
    with torch.autocast("cpu", enabled=False):
        scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -1e30)
        return (scores.softmax(-1) @ v.float()).to(q.dtype)


class Block(nn.Module):
    """Attention and gated feed-forward, each with a norm before and after."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.config = config
        self.local = index % config.pattern < config.pattern - 1
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        self.q = nn.Linear(config.width, queries, bias=False)
        self.k = nn.Linear(config.width, keys, bias=False)
        self.v = nn.Linear(config.width, keys, bias=False)
        self.o = nn.Linear(queries, config.width, bias=False)
        self.gate = nn.Linear(config.width, config.ff, bias=False)
        self.up = nn.Linear(config.width, config.ff, bias=False)
        self.down = nn.Linear(config.ff, config.width, bias=False)
        self.norm_in, self.norm_attention = Norm(config.width), Norm(config.width)
        self.norm_ff_in, self.norm_ff = Norm(config.width), Norm(config.width)
        self.norm_q, self.norm_k = Norm(config.head_size), Norm(config.head_size)

    def forward(self, x: Tensor, tables: list[tuple[Tensor, Tensor]], mask: Tensor) -> Tensor:
        c = self.config
        batch, length, _ = x.shape
        h = self.norm_in(x)
        cos, sin = tables[0 if self.local else 1]
        q = rotate(self.norm_q(self.q(h).view(batch, length, c.heads, -1)).transpose(1, 2), cos, sin)
        k = rotate(self.norm_k(self.k(h).view(batch, length, c.kv_heads, -1)).transpose(1, 2), cos, sin)
        v = self.v(h).view(batch, length, c.kv_heads, -1).transpose(1, 2)
        group = c.heads // c.kv_heads
        h = attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), mask)
        x = x + self.norm_attention(self.o(h.transpose(1, 2).reshape(batch, length, -1)))
        h = self.norm_ff_in(x)
        return x + self.norm_ff(self.down(F.gelu(self.gate(h), approximate="tanh") * self.up(h)))


class TextModel(nn.Module):
    """Samples stay below the sliding window in training, so local and global layers share one mask."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.layers))
        self.norm = Norm(config.width)
        self._initialise()
        for name, base in (("local", config.rope_local), ("global", config.rope_global)):
            steps = 1 / base ** (torch.arange(0, config.head_size, 2).float() / config.head_size)
            angles = torch.outer(torch.arange(config.context).float(), steps)
            self.register_buffer(f"cos_{name}", angles.cos(), persistent=False)
            self.register_buffer(f"sin_{name}", angles.sin(), persistent=False)

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "embedding" not in name:
                nn.init.normal_(weight, std=0.5 * weight.shape[1] ** -0.5)

    def embed(self, ids: Tensor) -> Tensor:
        """Token rows are scaled by sqrt(width); image rows are not."""
        return self.embedding(ids) * math.sqrt(self.config.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states of embedded rows; the mask defaults to causal."""
        length = x.shape[1]
        if mask is None:
            mask = torch.ones(length, length, dtype=torch.bool).tril()
        tables = [
            (
                getattr(self, f"cos_{name}")[:length].to(x.dtype),
                getattr(self, f"sin_{name}")[:length].to(x.dtype),
            )
            for name in ("local", "global")
        ]
        for block in self.blocks:
            x = block(x, tables, mask)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding.weight)


class VisionBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.vision_width
        self.heads = config.vision_heads
        self.ln1, self.ln2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, config.vision_ff), nn.Linear(config.vision_ff, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        h = self.ln1(x)
        q, k, v = (part(h).view(batch, length, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(attend(q, k, v, None).transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh"))


class VisionModel(nn.Module):
    """Patches, transformer, 2x2 mean pool, norm, projection to the text width."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        patches, width = (config.image_size // config.patch) ** 2, config.vision_width
        self.patch = nn.Linear(3 * config.patch**2, width)
        self.position = nn.Parameter(torch.randn(patches, width) * 0.02)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vision_layers))
        self.post = nn.LayerNorm(width, 1e-6)
        self.soft_norm = Norm(width)
        self.projection = nn.Parameter(torch.randn(width, config.width) * width**-0.5)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, size, size] in -1..1 to pooled features and to rows for the text model."""
        c, count = self.config, pixels.shape[0]
        side = c.image_size // c.patch
        x = pixels.view(count, 3, side, c.patch, side, c.patch).permute(0, 2, 4, 1, 3, 5)
        x = self.patch(x.reshape(count, side * side, -1)) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.post(x).view(count, c.grid, c.merge, c.grid, c.merge, -1).mean((2, 4))
        x = self.soft_norm(x.reshape(count, c.image_tokens, -1))
        return x, x @ self.projection
