"""Names in SAM 3's checkpoints, and what of them is its tracker.

Three layouts are published: Meta's sam3.pt (detector.* and tracker.*), the whole model of Transformers (detector_model.*,
tracker_model.*, tracker_neck.*), and its tracker alone (`Sam3TrackerVideoModel`). All become SAM 2's names here. The tracker
shares the detector's image encoder and has a neck of its own; text encoder and detector are left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

WORDS = ("tracker_model.", "tracker_neck.", "detector_model.", "detector.", "tracker.")
"""Beginnings of names that only SAM 3's checkpoints have: Transformers', Meta's."""

_TAKEN: tuple[tuple[str, str], ...] = (
    # of the whole model, the tracker's parts; Transformers puts its first word before all names when it saves the tracker
    (r"^tracker_model\.", ""),
    (r"^detector_model\.vision_encoder\.backbone\.", "vision_encoder.backbone."),
    (r"^tracker_neck\.", "vision_encoder.neck."),
    (r"^detector\.backbone\.vision_backbone\.trunk\.", "image_encoder.trunk."),
    (r"^detector\.backbone\.vision_backbone\.sam2_convs\.", "image_encoder.neck.convs."),
    (r"^tracker\.maskmem_backbone\.", "memory_encoder."),
    (r"^tracker\.transformer\.encoder\.", "memory_attention."),
    (r"^tracker\.", ""),
)

_ENCODER: tuple[tuple[str, str], ...] = (
    # the image encoder: Transformers' names, and Meta's, under SAM 2's
    (r"^vision_encoder\.backbone\.embeddings\.patch_embeddings\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.embeddings\.position_embeddings$", "image_encoder.trunk.pos_embed"),
    (r"^vision_encoder\.backbone\.layer_norm\.", "image_encoder.trunk.ln_pre."),
    (r"^vision_encoder\.backbone\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.trunk.blocks.\1.norm\2."),
    (r"^vision_encoder\.backbone\.layers\.(\d+)\.attention\.o_proj\.", r"image_encoder.trunk.blocks.\1.attn.proj."),
    (r"^vision_encoder\.backbone\.layers\.(\d+)\.attention\.", r"image_encoder.trunk.blocks.\1.attn."),
    (r"^vision_encoder\.backbone\.layers\.(\d+)\.mlp\.", r"image_encoder.trunk.blocks.\1.mlp."),
    (r"^(image_encoder\.trunk\.blocks\.\d+\.mlp)\.fc1\.", r"\1.layers.0."),
    (r"^(image_encoder\.trunk\.blocks\.\d+\.mlp)\.fc2\.", r"\1.layers.1."),
    (r"^vision_encoder\.neck\.fpn_layers\.0\.scale_layers\.0\.", "image_encoder.neck.convs.0.dconv_2x2_0."),
    (r"^vision_encoder\.neck\.fpn_layers\.0\.scale_layers\.2\.", "image_encoder.neck.convs.0.dconv_2x2_1."),
    (r"^vision_encoder\.neck\.fpn_layers\.1\.scale_layers\.0\.", "image_encoder.neck.convs.1.dconv_2x2."),
    (r"^vision_encoder\.neck\.fpn_layers\.(\d)\.proj1\.", r"image_encoder.neck.convs.\1.conv_1x1."),
    (r"^vision_encoder\.neck\.fpn_layers\.(\d)\.proj2\.", r"image_encoder.neck.convs.\1.conv_3x3."),
    (r"^(sam_mask_decoder\.transformer\.layers\.\d+\.mlp)\.lin1\.", r"\1.layers.0."),
    (r"^(sam_mask_decoder\.transformer\.layers\.\d+\.mlp)\.lin2\.", r"\1.layers.1."),
)


def is_sam3(state: Mapping[str, Tensor]) -> bool:
    """Are these names of SAM 3, the whole or its tracker alone?"""
    positions = "vision_encoder.backbone.embeddings.position_embeddings"
    return any(name.startswith(WORDS) or name == positions for name in state)


def tracker_of(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(the tracker's tensors, what is left of the rest: how many tensors of each part).

    The image encoder has SAM 2's names in the result; the other parts have SAM 2's or Transformers', as they were.
    """
    taken: dict[str, Tensor] = {}
    left: dict[str, int] = {}
    for name, tensor in state.items():
        new = _renamed(name, _TAKEN)
        if new == name and name.startswith(("detector_model.", "detector.")):
            part = ".".join(name.split(".")[: 3 if name.startswith("detector.backbone.") else 2])
            left[part] = left.get(part, 0) + 1
        elif not new.endswith(".freqs_cis"):  # a table that follows from sizes
            taken[_renamed(new, _ENCODER)] = tensor
    return _joined(taken), left


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of the image encoder as one matrix; positions without a class token."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        encoder = name.startswith("image_encoder.trunk.")
        if encoder and ".attn.q_proj." in name:
            parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
            if all(part in state for part in parts):
                result[name.replace(".q_proj.", ".qkv.")] = torch.cat([state[part] for part in parts])
                continue
        elif encoder and (".attn.k_proj." in name or ".attn.v_proj." in name):
            if re.sub(r"\.[kv]_proj\.", ".q_proj.", name) in state:
                continue
        elif name == "image_encoder.trunk.pos_embed" and round(tensor.shape[1] ** 0.5) ** 2 != tensor.shape[1]:
            tensor = tensor[:, 1:]
        result[name] = tensor
    return result


def _renamed(name: str, rows: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rows:
        name = re.sub(pattern, replacement, name)
    return name
