"""EdgeTAM and SAM 2 as folders that Hugging Face's Transformers reads: `EdgeTamVideoModel.from_pretrained(FOLDER)` and
`Sam2VideoModel.from_pretrained(FOLDER)`. The other way, `edgetam weights convert` reads their model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from edgetam_pl.build import build_model, load_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.model.trunks import HIERA
from edgetam_pl.weights import official_name, to_huggingface


class Theirs(NamedTuple):
    """A model of Transformers, without its numbers."""

    model: Any
    """On the device "meta"."""
    name: str
    """Of its class."""


def edgetam_config(side: int) -> Any:
    """The `EdgeTamVideoConfig` of the released EdgeTAM at an input of `side` pixels."""
    from transformers import EdgeTamVideoConfig, EdgeTamVisionConfig, TimmWrapperConfig

    backbone = TimmWrapperConfig(
        architecture="repvit_m1.dist_in1k", model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    )
    return EdgeTamVideoConfig(
        vision_config=EdgeTamVisionConfig(backbone_config=backbone, backbone_feature_sizes=_maps(side)),
        prompt_encoder_config={"image_size": side},
        mask_decoder_config={"dynamic_multimask_via_stability": False},
        image_size=side,
        memory_attention_rope_feat_sizes=[side // 16] * 2,
        enable_temporal_pos_encoding_for_object_pointers=False,
        enable_occlusion_spatial_embedding=False,
    )


def sam2_config(model: ModelConfig) -> Any:
    """The `Sam2VideoConfig` of a SAM 2 or 2.1 with any Hiera. Widths of 256 and 64 are fixed in Transformers' code."""
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig

    with torch.device("meta"):
        hiera: Any = build_model(model).image_encoder.trunk.body.model
    side = model.image_size
    last = [hiera.blocks[end] for end in hiera.stage_ends]  # the last block of each stage
    widths = [block.dim_out for block in last]
    backbone = Sam2HieraDetConfig(
        hidden_size=widths[0],
        num_attention_heads=last[0].attn.num_heads,
        image_size=[side, side],
        window_positional_embedding_background_size=list(hiera.global_pos_size),
        blocks_per_stage=np.diff([-1, *hiera.stage_ends]).tolist(),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[block.attn.num_heads for block in last],
        window_size_per_stage=list(hiera.window_spec),
        global_attention_blocks=list(hiera.global_att_blocks),
    )
    return Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=widths[::-1], backbone_feature_sizes=_maps(side)
        ),
        prompt_encoder_config={"image_size": side},
        mask_decoder_config={
            "mlp_dim": model.decoder_mlp,
            "num_attention_heads": model.decoder_heads,
            "dynamic_multimask_via_stability": False,
        },
        image_size=side,
        memory_attention_rope_feat_sizes=[side // 16] * 2,
        memory_attention_num_layers=model.memory_blocks,
        memory_attention_feed_forward_hidden_size=model.memory_ffn,
        enable_temporal_pos_encoding_for_object_pointers=model.pointer_age,
        enable_occlusion_spatial_embedding=model.occlusion_embedding,
    )


def save_for_transformers(weights: str | Path, folder: str | Path, model: ModelConfig) -> str:
    """Write a checkpoint of an EdgeTAM or a SAM 2, of any input size, as a folder with config.json and model.safetensors;
    returns the name of the class that reads it.

    Raises:
        ValueError: Transformers is not installed, the model is none that it knows, or the checkpoint is of another model.
    """
    try:
        theirs = _theirs(model)
    except ImportError as error:
        raise ValueError(f"This needs Transformers: pip install transformers. ({error})") from error
    state = {official_name(ours): tensor for ours, tensor in load_model(model, weights).state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.model.state_dict().items()}
    renamed, wrong = {}, []
    try:
        renamed = to_huggingface(state, shapes)
        wrong += [name for name, tensor in renamed.items() if tuple(tensor.shape) != shapes[name]]
    except KeyError as error:
        wrong.append(str(error))
    if wrong:
        raise ValueError(
            f"{model.name} is no EdgeTAM or SAM 2 as Transformers knows it: {len(wrong)} tensors differ, e.g. {wrong[0]}. "
            "Only the released architectures can be written; et.save_pretrained writes any model, in a layout of ours."
        )
    theirs.model.load_state_dict(renamed, assign=True)
    with atomic_path(folder) as draft:
        theirs.model.save_pretrained(draft)
    return theirs.name


def _theirs(model: ModelConfig) -> Theirs:
    """The class that a model is in Transformers. Raises ImportError where that is not installed."""
    from transformers import EdgeTamVideoModel, Sam2VideoModel

    sam2 = (
        model.trunk in HIERA and model.neck == "fpn" and model.compressor.kind == "none" and model.cross_attention == "full"
    )
    with torch.device("meta"):
        if sam2:
            return Theirs(Sam2VideoModel(sam2_config(model)), "Sam2VideoModel")
        return Theirs(EdgeTamVideoModel(edgetam_config(model.image_size)), "EdgeTamVideoModel")


def _maps(side: int) -> list[list[int]]:
    """Sizes of the feature maps."""
    return [[side // stride] * 2 for stride in (4, 8, 16)]
