"""The plain ViT of EfficientTAM (ViTDet's windows, SAM 2's resized positions), and a pyramid for using it as a student.

Letters: B images, C width, (h, w) the grid of patches.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.attention import WeightedSum
from edgetam_pl.model.layers import LayerNorm2d

WINDOW = 14
"""Side of an attention window, in patches; the side of the position map as well (14 x 14 patches of ImageNet images)."""


class PatchEmbed(nn.Module):
    """Patches of 16 x 16 pixels, as maps (B, h, w, C)."""

    def __init__(self, dim: int, patch: int, *, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)  # (B, 3, S, S) -> (B, h, w, C)


class WindowAttention(nn.Module):
    """Self-attention over all positions of a map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.weigh = WeightedSum()

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x.flatten(1, 2)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, d)
        y = self.attend(*qkv.unbind(0))
        return self.proj(y.transpose(1, 2).flatten(2)).view(x.shape)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each (B, H, N, d) -> (B, H, N, d)."""
        return self.weigh(queries, keys, values)


class Block(nn.Module):
    """Attention within windows (or everywhere if window is 0), then an MLP; pre-norm, eps 1e-6."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        drop_path: float,
        hidden: int = 0,
        attention: WindowAttention | None = None,
    ) -> None:
        """`hidden` is the MLP's width; 0: four times `dim`. `attention` stands in for the one without rotation."""
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention or WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden or 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same."""
        y = self.norm1(x)
        y = self._in_windows(y) if self.window else self.attn(y)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _in_windows(self, x: Tensor) -> Tensor:
        """Windows are padded with zeros at the right and bottom; padding takes part in attention (SAM 2 release)."""
        h, w, side = x.shape[1], x.shape[2], self.window
        x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
        batch, height, width, dim = x.shape
        columns = width // side
        # Core ML takes at most four dimensions: (B rows, y, columns, x C) <-> (B rows, columns, y, x C)
        x = x.reshape(-1, side, columns, side * dim).transpose(1, 2)
        y = self.attn(x.reshape(-1, side, side, dim))
        y = y.view(-1, columns, side, side * dim).transpose(1, 2)
        return y.reshape(batch, height, width, dim)[:, :h, :w]


class PlainViT(nn.Module):
    """A ViT whose every third block attends globally. One map (B, C, S/16, S/16), without a final norm.

    Args:
        dim, heads, depth: width, heads and number of blocks.
        patch: side of a patch in pixels; 16 everywhere.
        window: side of the windows of the other blocks.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
    """

    def __init__(
        self, *, dim: int, heads: int, depth: int = 12, patch: int = 16, window: int = WINDOW, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.dim = dim
        self.patch = patch
        self.settled: Tensor | None = None
        self.patch_embed = PatchEmbed(dim, patch)
        # one row for a class token, which is dropped, as in the released checkpoints
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + WINDOW * WINDOW, dim), std=0.02))
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads=heads, window=0 if i % 3 == 2 else window, drop_path=rate) for i, rate in enumerate(rates)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images)
        x = x + self._positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)
        return [x.permute(0, 3, 1, 2)]  # (B, C, h, w)

    @torch.no_grad()
    def settle(self, image_size: int) -> None:
        """Resize the positions once and for all, for inference at one size (phones have no bicubic resize)."""
        side = image_size // self.patch
        del self.settled  # an attribute so far, or the buffer of an earlier call
        self.register_buffer("settled", self._resized(side, side), persistent=False)

    def _positions(self, h: int, w: int) -> Tensor:
        return self._resized(h, w) if self.settled is None else self.settled

    def _resized(self, h: int, w: int) -> Tensor:
        grid = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (WINDOW, WINDOW))
        return F.interpolate(grid, (h, w), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)  # (1, h, w, C)


class SimplePyramid(nn.Module):
    """Strides 4, 8, 16 and 32 out of one stride-16 map (ViTDet's simple feature pyramid).

    EdgeTAM reports a plain ViT-Tiny student (Tab. 6) without saying how F4 and F8 are made; this is our choice.
    """

    def __init__(self, body: PlainViT) -> None:
        super().__init__()
        dim = body.dim
        self.channels = [dim // 4, dim // 2, dim, dim]
        self.vit = body
        self.to_4 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), LayerNorm2d(dim // 2), nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2),
        )  # fmt: skip
        self.to_8 = nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        (x,) = self.vit(images)
        return [self.to_4(x), self.to_8(x), x, F.max_pool2d(x, 2, stride=2)]
