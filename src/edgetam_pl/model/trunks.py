"""Trunks by name: the backbones of E_img. The only place that makes models of timm; nothing is ever downloaded here.

A trunk is a module with `channels`, widths of its maps from fine to coarse, that turns images (B, 3, S, S) into those maps:
strides 4, 8, 16, 32, or stride 16 alone for a plain ViT under the single-level neck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models.repvit import RepVggDw as RepVggDw  # RepViT's block of three branches
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from edgetam_pl.model.sam3 import Sam3ViT
from edgetam_pl.model.vit import PlainViT, SimplePyramid

REPVIT = ("repvit_m1",)
HIERA = ("sam2_hiera_tiny", "sam2_hiera_small", "sam2_hiera_base_plus", "sam2_hiera_large")
VIT = {"vit_tiny": (192, 3), "vit_small": (384, 6)}
"""Width and heads of EfficientTAM's plain ViTs; both have 12 blocks."""
SAM3 = "sam3_vit"
"""SAM 3's image encoder: one map of stride 14."""

STRIDES = (4, 8, 16, 32)


class Trunk(nn.Module):
    """A feature extractor of timm, or our plain ViT. `name` is what `build_trunk` was asked for."""

    def __init__(self, body: nn.Module, channels: list[int], name: str = "") -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self.name = name

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, S, S) -> maps (B, channels[i], S / stride_i, S / stride_i), fine to coarse."""
        return list(self.body(images))


def build_trunk(name: str, *, single: bool, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    """The trunk called `name`, with random weights.

    Args:
        single: only the stride-16 map is wanted (plain ViT).
        drop_path: stochastic depth, training only.
        args: overrides of the trunk's own sizes, e.g. embed_dim and depth.

    Raises:
        ValueError: the trunk is unknown, has no maps of strides 4, 8, 16 and 32, or does not take these args.
    """
    if name not in TRUNKS:
        return _any(name, drop_path=drop_path, args=args)
    try:
        return TRUNKS[name](name, single, drop_path, args)
    except (TypeError, IndexError) as error:  # an unknown name; too few stages
        raise ValueError(f"trunk_args {dict(args)} do not fit {name}, which makes four maps: {error}.") from error


def _repvit(name: str, single: bool, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    body: Any = timm.create_model(name, pretrained=False, features_only=True, **args)
    _scale_channels_directly(body)
    return Trunk(body, list(body.feature_info.channels()), name)


def _hiera(name: str, single: bool, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    # SAM 2 leaves its position maps at zero and everything else at PyTorch's defaults
    start = {"drop_path_rate": drop_path, "weight_init": "skip", "fix_init": False}
    body: Any = timm.create_model(name, pretrained=False, features_only=True, **(start | dict(args)))
    for parameter_name, parameter in body.named_parameters():
        if "pos_embed" in parameter_name:
            nn.init.zeros_(parameter)
    return Trunk(body, list(body.feature_info.channels()), name)


def is_trunk(name: str) -> bool:
    """Is this a name that `build_trunk` knows? Strides are looked at when it is built."""
    return name in TRUNKS or timm.is_model(name)


def is_classifier(name: str) -> bool:
    """Has timm a whole classifier of this name? Not of our plain ViTs."""
    return name not in VIT and timm.is_model(name)


def classifier_names(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Entries of the state dict of timm's whole classifier called `name`, in its order: (name, shape)."""
    with torch.device("meta"):
        return [(key, tuple(t.shape)) for key, t in timm.create_model(name, pretrained=False).state_dict().items()]


def _any(name: str, *, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    """A backbone by timm's name, cut where its strides are 4, 8, 16 and 32; of several maps of one stride the deepest."""
    settings: dict[str, Any] = ({"drop_path_rate": drop_path} if drop_path else {}) | dict(args)
    try:
        with torch.device("meta"):
            whole: Any = timm.create_model(name, pretrained=False, features_only=True, **settings)
        strides = list(whole.feature_info.reduction())
        if missing := [stride for stride in STRIDES if stride not in strides]:
            raise ValueError(
                f"trunk {name} makes maps of strides {', '.join(map(str, strides))}; the neck needs 4, 8, 16 and 32, and "
                f"{', '.join(map(str, missing))} is missing. Use a hierarchical one, e.g. tf_efficientnet_lite0."
            )
        deepest = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
        body: Any = timm.create_model(name, pretrained=False, features_only=True, out_indices=deepest, **settings)
    except (TypeError, RuntimeError, IndexError) as error:  # timm: no such setting, no feature extraction, too few stages
        raise ValueError(
            f"trunk {name} with trunk_args {dict(args)} and drop_path={drop_path} cannot be built by timm as four maps: "
            f"{error}. Use another trunk, or other trunk_args."
        ) from error
    _scale_channels_directly(body)
    return Trunk(body, list(body.feature_info.channels()), name)


class ChannelScale(nn.Conv2d):
    """A depthwise 1x1 convolution, computed as what it is: one factor per channel.

    PyTorch's CPU kernel runs such a convolution channel by channel, which costs more than all of RepViT's arithmetic.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight.view(1, -1, 1, 1)


def _scale_channels_directly(body: nn.Module) -> None:
    """Replace bias-free depthwise 1x1 convolutions; names in the state dict stay."""
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Conv2d or child.bias is not None or {child.kernel_size, child.stride} != {(1, 1)}:
                continue
            if child.groups == child.in_channels == child.out_channels > 1:
                scale = ChannelScale(child.groups, child.groups, 1, groups=child.groups, bias=False)
                scale.weight = child.weight
                setattr(parent, name, scale)


def _vit(name: str, single: bool, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    dim, heads = VIT[name]
    body = PlainViT(**({"dim": dim, "heads": heads, "drop_path": drop_path} | dict(args)))
    if single:
        return Trunk(body, [body.dim], name)
    pyramid = SimplePyramid(body)
    return Trunk(pyramid, pyramid.channels, name)


def _sam3(name: str, single: bool, drop_path: float, args: Mapping[str, Any]) -> Trunk:
    settings: dict[str, Any] = {"drop_path": drop_path} | dict(args)
    body = Sam3ViT(**settings)
    return Trunk(body, [body.dim], name)


TRUNKS: dict[str, Callable[[str, bool, float, Mapping[str, Any]], Trunk]] = {
    **dict.fromkeys(REPVIT, _repvit),
    **dict.fromkeys(HIERA, _hiera),
    **dict.fromkeys(VIT, _vit),
    SAM3: _sam3,
}
"""Trunks with a function of their own, which is given what `build_trunk` is: name, single, drop_path and args. Every other
backbone of timm with maps of STRIDES is built by timm's name."""


def merge_branches(trunk: Trunk) -> Trunk:
    """RepViT's three parallel branches and its BatchNorms become single convolutions, in place; others are left alone."""
    if any(isinstance(module, ChannelScale) for module in trunk.modules()):
        trunk.body = reparameterize_model(trunk.body, inplace=True)
    return trunk
