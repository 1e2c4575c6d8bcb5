"""E_mem, the memory encoder: Eq. 4, M = E_mem(F16, O), before compression."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.layers import LayerNorm2d

MASK_SCALE, MASK_OFFSET = 20.0, -10.0
"""Masks enter as 20 * sigmoid(logit) - 10 (SAM 2 release)."""


class FuserBlock(nn.Module):
    """A ConvNeXt block on maps (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # (B, H, W, C)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """Folds a mask into the image features of its frame.

    Args:
        dim: C, width of the image features.
        memory_dim: D, width of the memory.
        occlusion: memories of absent objects get an embedding of their own (SAM 2.1).
    """

    def __init__(self, dim: int, memory_dim: int, *, occlusion: bool) -> None:
        super().__init__()
        widths = (1, max(4, dim // 64), max(8, dim // 16), max(16, dim // 4), dim)  # SAM 2: 1, 4, 16, 64, 256
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), LayerNorm2d(after), nn.GELU()]
        self.mask_downsampler = nn.Sequential(*stages, nn.Conv2d(dim, dim, 1))
        self.pix_feat_proj = nn.Conv2d(dim, dim, 1)
        self.fuser = nn.Sequential(FuserBlock(dim), FuserBlock(dim))
        self.out_proj = nn.Conv2d(dim, memory_dim, 1)
        self.occluded = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, memory_dim), std=0.02)) if occlusion else None

    def forward(self, f16: Tensor, mask: Tensor, visible: Tensor) -> Tensor:
        """f16 (1 or O, C, S/16, S/16), mask (O, 1, S, S) in -10 ... 10, visible (O,) bool -> (O, D, S/16, S/16)."""
        x = self.pix_feat_proj(f16) + self.mask_downsampler(mask)
        memory = self.out_proj(self.fuser(x))
        if self.occluded is None:
            return memory
        absent = (~visible).to(memory.dtype).view(-1, 1, 1, 1)
        return memory + absent * self.occluded.view(1, -1, 1, 1)


def as_evidence(logits: Tensor, *, size: int, binarize: bool, side: int = 0) -> Tensor:
    """Mask logits (O, 1, s, s) -> the encoder's input (O, 1, size, size), float32 in -10 ... 10.

    Args:
        side: of the encoder's input where it is not `size`: SAM 3's features have stride 14, its encoder's has 16.
        binarize: every pixel counts fully, as SAM 2's predictor does with masks that come from clicks.
    """
    logits = logits.float()
    if logits.shape[-1] != size:
        logits = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
    if side and side != size:
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False, antialias=True)
    probability = (logits > 0).float() if binarize else logits.sigmoid()
    return probability * MASK_SCALE + MASK_OFFSET
