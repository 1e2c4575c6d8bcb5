"""E_img, the image encoder: Eq. 1, F4, F8, F16 = E_img(I)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.layers import LayerNorm2d
from edgetam_pl.model.sam3 import Pyramid
from edgetam_pl.model.trunks import Trunk
from edgetam_pl.types import ImageFeatures


class FPN(nn.Module):
    """SAM 2's neck: stride 16 adds the upsampled stride 32; strides 4 and 8 are lateral only; stride 32 is not returned."""

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict(
            {f"s{stride}": nn.Conv2d(width, dim, 1) for stride, width in zip((4, 8, 16, 32), channels, strict=True)}
        )
        # SAM 2 keeps these in its mask decoder (conv_s0, conv_s1), but they run once per image
        self.project_f4 = nn.Conv2d(dim, dim // 8, 1)
        self.project_f8 = nn.Conv2d(dim, dim // 4, 1)

    def forward(self, maps: list[Tensor]) -> ImageFeatures:
        x4, x8, x16, x32 = maps
        coarse = F.interpolate(self.lateral["s32"](x32).float(), scale_factor=2.0, mode="nearest")
        return ImageFeatures(
            self.project_f4(self.lateral["s4"](x4)),
            self.project_f8(self.lateral["s8"](x8)),
            self.lateral["s16"](x16) + coarse,
        )

    @torch.no_grad()
    def fold(self) -> None:
        """Two 1x1 convolutions in a row become one, for strides 4 and 8; the widest map of all is never made."""
        self.lateral["s4"], self.project_f4 = _product(self.lateral["s4"], self.project_f4), nn.Identity()
        self.lateral["s8"], self.project_f8 = _product(self.lateral["s8"], self.project_f8), nn.Identity()


class SingleLevel(nn.Module):
    """EfficientTAM's neck: one level, stride 16; no F4, no F8 (ViTDet)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv_1x1 = nn.Conv2d(channels, dim, 1, bias=False)
        self.norm_0 = LayerNorm2d(dim)
        self.conv_3x3 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm_1 = LayerNorm2d(dim)

    def forward(self, maps: list[Tensor]) -> ImageFeatures:
        (x,) = maps
        return ImageFeatures(None, None, self.norm_1(self.conv_3x3(self.norm_0(self.conv_1x1(x)))))


class ImageEncoder(nn.Module):
    """Trunk, then neck."""

    def __init__(self, trunk: Trunk, neck: FPN | SingleLevel | Pyramid) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = neck

    def forward(self, images: Tensor) -> ImageFeatures:
        """images (B, 3, S, S), normalised -> features of B images."""
        return self.neck(self.trunk(images))


def _product(first: nn.Module, second: nn.Module) -> nn.Module:
    """The 1x1 convolution that does what two do in a row; a pair folded before is returned as it is."""
    if isinstance(second, nn.Identity):
        return first
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert first.bias is not None
    assert second.bias is not None
    folded = nn.Conv2d(first.in_channels, second.out_channels, 1).to(first.weight)
    outer, inner = second.weight.flatten(1).double(), first.weight.flatten(1).double()
    folded.weight.copy_((outer @ inner).view_as(folded.weight))
    folded.bias.copy_(outer @ first.bias.double() + second.bias.double())  # type: ignore[union-attr]
    return folded
