"""The image encoder of SAM 3, as its tracker uses it: a plain ViT with rotary positions, and a pyramid of its one map.

Source: "SAM 3: Segment Anything with Concepts" and its release (vitdet.py, necks.py). Letters: B images, C width, d width of
a head, (h, w) the grid of patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.position import Rotation, rotate, rotation_table
from edgetam_pl.model.vit import Block, PatchEmbed, WindowAttention
from edgetam_pl.types import ImageFeatures

PATCH = 14
"""Side of a patch in pixels."""
PRETRAINED = 24
"""Side of the position map in patches (pre-training at 336 px). It is tiled over larger grids, not resized."""
GLOBAL = (7, 15, 23, 31)
"""Blocks that attend everywhere."""


class RotaryAttention(WindowAttention):
    """Self-attention whose queries and keys are turned by their place in the map.

    Args:
        side: of the map or window, in patches.
        scale: of the places: a large map counts as the window does, in smaller steps.
    """

    def __init__(self, dim: int, heads: int, *, side: int, scale: float) -> None:
        super().__init__(dim, heads)
        table = rotation_table((side, side), dim // heads, scale=scale)
        self.register_buffer("cos", table.cos, persistent=False)
        self.register_buffer("sin", table.sin, persistent=False)

    cos: Tensor  # (side * side, d/2)
    sin: Tensor

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        table = Rotation(self.cos, self.sin)
        return self.weigh(rotate(queries, table), rotate(keys, table), values)


class Sam3ViT(nn.Module):
    """SAM 3's perception encoder: one map (B, C, S/14, S/14), without a final norm.

    Args:
        image_size: S, a multiple of `patch`.
        dim, heads, depth, hidden: width, heads, blocks, and hidden width of a block's MLP.
        window: side of the windows of all blocks but `attend_everywhere`.
        pretrained: side of the position map in patches.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
    """

    def __init__(
        self,
        *,
        image_size: int,
        dim: int = 1024,
        heads: int = 16,
        depth: int = 32,
        hidden: int = 4736,
        patch: int = PATCH,
        window: int = 24,
        attend_everywhere: Sequence[int] = GLOBAL,
        pretrained: int = PRETRAINED,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        grid = image_size // patch
        self.dim = dim
        self.pretrained = pretrained
        self.patch_embed = PatchEmbed(dim, patch, bias=False)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, pretrained * pretrained, dim), std=0.02))
        self.ln_pre = nn.LayerNorm(dim, eps=1e-6)
        self.blocks = nn.ModuleList()
        for i in range(depth):
            everywhere = i in attend_everywhere
            side, scale = (grid, window / grid) if everywhere else (window, 1.0)
            attention = RotaryAttention(dim, heads, side=side, scale=scale)
            rate = drop_path * i / max(depth - 1, 1)
            self.blocks.append(
                Block(
                    dim, heads=heads, window=0 if everywhere else window, drop_path=rate, hidden=hidden, attention=attention
                )
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images)  # (B, h, w, C)
        x = self.ln_pre(x + self._positions(x.shape[1], x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return [x.permute(0, 3, 1, 2)]

    def _positions(self, h: int, w: int) -> Tensor:
        """The position map beside itself as often as it takes: (1, h, w, C)."""
        side = self.pretrained
        tiled = self.pos_embed.unflatten(1, (side, side)).repeat(1, -(-h // side), -(-w // side), 1)
        return tiled[:, :h, :w]


class Level(nn.Module):
    """One level of the pyramid: the map enlarged 4 or 2 times, as it is, or halved; then two convolutions to `dim`."""

    def __init__(self, channels: int, dim: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        width = channels
        if scale == 4:
            self.dconv_2x2_0 = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
            self.dconv_2x2_1 = nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2)
            width = channels // 4
        elif scale == 2:
            self.dconv_2x2 = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
            width = channels // 2
        self.conv_1x1 = nn.Conv2d(width, dim, 1)
        self.conv_3x3 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 4:
            x = self.dconv_2x2_1(F.gelu(self.dconv_2x2_0(x)))
        elif self.scale == 2:
            x = self.dconv_2x2(x)
        elif self.scale == 0.5:
            x = F.max_pool2d(x, 2, stride=2)
        return self.conv_3x3(self.conv_1x1(x))


class Pyramid(nn.Module):
    """SAM 3's neck for its tracker: F4, F8 and F16 (strides 3.5, 7 and 14) of one map, none of which sees another."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(channels, dim, scale) for scale in (4, 2, 1, 0.5))
        # in every released checkpoint, in no computation of the tracker: kept so that files load and save key for key
        self.levels[3].requires_grad_(False)
        self.project_f4 = nn.Conv2d(dim, dim // 8, 1)
        self.project_f8 = nn.Conv2d(dim, dim // 4, 1)

    def forward(self, maps: list[Tensor]) -> ImageFeatures:
        (x,) = maps
        return ImageFeatures(self.project_f4(self.levels[0](x)), self.project_f8(self.levels[1](x)), self.levels[2](x))
