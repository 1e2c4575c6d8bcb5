"""The same model, cheaper: what can be computed once is computed once. For inference and export only."""

from __future__ import annotations

import copy

from edgetam_pl.model.attention import Attention
from edgetam_pl.model.image_encoder import FPN
from edgetam_pl.model.memory_attention import MemoryBlock
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.model.trunks import merge_branches
from edgetam_pl.model.vit import PlainViT


def fuse(model: TrackAnything) -> TrackAnything:
    """A copy in eval mode, without gradients, that gives the same outputs up to rounding; the model itself stays as it is.

    RepViT's branches and BatchNorms become single convolutions; the lateral convolutions of F4 and F8 absorb their
    projections; rotated channels are paired by halves; a plain ViT's positions are resized once. A fused model is returned
    as an equal copy.
    """
    model = copy.deepcopy(model).eval()
    merge_branches(model.image_encoder.trunk)
    if isinstance(model.image_encoder.neck, FPN):
        model.image_encoder.neck.fold()
    for module in model.modules():
        if isinstance(module, PlainViT):
            module.settle(model.image_size)
        if isinstance(module, MemoryBlock):
            for attention in (module.self_attention, module.cross_attention):
                assert isinstance(attention, Attention)
                attention.half_split()
    model.fused = True
    return model.requires_grad_(False)
