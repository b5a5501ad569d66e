"""CaiT (Touvron et al., arXiv 2103.17239), which Transformers does not have: a module with timm's names and shapes.

Written after the paper: patches attend to one another with talking heads (Shazeer et al., arXiv 2003.02436), then a
class token attends to them in layers that leave them as they are; LayerScale ends every branch. It loads and saves as
the library's classes do, so that the tests treat both alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

DEFAULTS = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "mlp_ratio": 4,
    "mlp_ratio_token_only": 4,
    "depth_token_only": 2,
    "qkv_bias": True,
    "init_values": 1e-4,
    "eps": 1e-6,
}
"""What timm's constructor takes for arguments that are left out; the norms' epsilon is no argument there, but fixed."""


def heads_of(value: Tensor, heads: int) -> Tensor:
    """``(batch, tokens, heads * size)`` -> ``(batch, heads, tokens, size)``."""
    batch, tokens, width = value.shape
    return value.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def together(value: Tensor) -> Tensor:
    """The way back."""
    return value.transpose(1, 2).flatten(2)


class TalkingHeads(nn.Module):
    """Attention whose scores the heads mix before the softmax, and what comes out of it again (paper, section 4)."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        width, self.heads = config.embed_dim, config.num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj_l = nn.Linear(self.heads, self.heads)
        self.proj_w = nn.Linear(self.heads, self.heads)
        self.proj = nn.Linear(width, width)

    def forward(self, patches: Tensor) -> Tensor:
        """``(batch, tokens, width)`` -> the same shape."""
        query, key, value = (heads_of(part, self.heads) for part in self.qkv(patches).chunk(3, -1))
        scores = query @ key.mT / query.shape[-1] ** 0.5
        mixed = self.proj_l(scores.movedim(1, -1)).softmax(-2)  # heads last; over the keys
        talked = self.proj_w(mixed).movedim(-1, 1)
        out: Tensor = self.proj(together(talked @ value))
        return out


class ClassAttention(nn.Module):
    """Attention in which the class token alone asks, and it and the patches answer (paper, equations 4 to 7)."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        width, self.heads = config.embed_dim, config.num_heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=config.qkv_bias) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(batch, 1 + patches, width)``, the class token first -> ``(batch, 1, width)``."""
        query, key, value = (
            heads_of(part, self.heads) for part in (self.q(tokens[:, :1]), self.k(tokens), self.v(tokens))
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5
        out: Tensor = self.proj(together(scores.softmax(-1) @ value))
        return out


class Mlp(nn.Module):
    """Two linear maps and a GELU between them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, value: Tensor) -> Tensor:
        """``(..., width)`` -> the same shape."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(value)))
        return out


class Block(nn.Module):
    """Norm, attention and LayerScale; norm, units and LayerScale (paper, equations 2 and 3)."""

    def __init__(self, config: SimpleNamespace, attention: nn.Module, ratio: int) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=config.eps) for _ in range(2))
        self.attn, self.mlp = attention, Mlp(width, ratio * width)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((width,), config.init_values)) for _ in range(2))

    def forward(self, stream: Tensor, context: Tensor | None = None) -> Tensor:
        """The stream after the layer; with a context, its tokens are attended to as well and stay as they are."""
        read = stream if context is None else torch.cat([stream, context], dim=1)
        stream = stream + self.gamma_1 * self.attn(self.norm1(read))
        after: Tensor = stream + self.gamma_2 * self.mlp(self.norm2(stream))
        return after


class Patches(nn.Module):
    """A linear map of every square of pixels."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(batch, channels, side, side)`` -> ``(batch, patches, width)``."""
        patches: Tensor = self.proj(pixels).flatten(2).mT
        return patches


class Cait(nn.Module):
    """The whole model, from the keys of a ``config.json``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = settled = SimpleNamespace(**{**DEFAULTS, **config})
        width, side = settled.embed_dim, settled.img_size // settled.patch_size
        self.patch_embed = Patches(settled)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, width))
        self.blocks = nn.ModuleList(
            Block(settled, TalkingHeads(settled), settled.mlp_ratio) for _ in range(settled.depth)
        )
        self.blocks_token_only = nn.ModuleList(
            Block(settled, ClassAttention(settled), settled.mlp_ratio_token_only)
            for _ in range(settled.depth_token_only)
        )
        self.norm = nn.LayerNorm(width, eps=settled.eps)
        self.head = nn.Linear(width, settled.num_classes)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """``(batch, channels, side, side)`` -> ``logits``, ``(batch, classes)``."""
        patches = self.patch_embed(pixel_values) + self.pos_embed
        for block in self.blocks:
            patches = block(patches)
        token = self.cls_token.expand(len(patches), -1, -1)
        for block in self.blocks_token_only:
            token = block(token, patches)
        return {"logits": self.head(self.norm(token)[:, 0])}

    def save_pretrained(self, directory: Path) -> None:
        """A checkpoint directory: ``model.safetensors`` and ``config.json``."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": "cait", "architectures": [type(self).__name__], **vars(self.config)}
        (directory / "config.json").write_text(json.dumps(config, indent=1), "utf-8")

    @classmethod
    def from_pretrained(cls, directory: Path, *, output_loading_info: bool = True) -> tuple[Cait, dict[str, Any]]:
        """The model of a directory, and what does not fit; tensors of other shapes raise."""
        made = cls(json.loads((directory / "config.json").read_text("utf-8")))
        found = made.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
        return made.eval(), {"missing_keys": found.missing_keys, "unexpected_keys": found.unexpected_keys}
