"""EdgeTAM as a folder that Hugging Face's Transformers reads: `EdgeTamVideoModel.from_pretrained(FOLDER)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgetam_pl.build import load_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.weights import official_name, to_huggingface


def edgetam_config(side: int) -> Any:
    """The `EdgeTamVideoConfig` of the released EdgeTAM at an input of `side` pixels."""
    from transformers import EdgeTamVideoConfig, EdgeTamVisionConfig, TimmWrapperConfig

    backbone = TimmWrapperConfig(
        architecture="repvit_m1.dist_in1k", model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    )
    return EdgeTamVideoConfig(
        vision_config=EdgeTamVisionConfig(
            backbone_config=backbone, backbone_feature_sizes=[[side // 4] * 2, [side // 8] * 2, [side // 16] * 2]
        ),
        prompt_encoder_config={"image_size": side},
        mask_decoder_config={"dynamic_multimask_via_stability": False},
        image_size=side,
        memory_attention_rope_feat_sizes=[side // 16] * 2,
        enable_temporal_pos_encoding_for_object_pointers=False,
        enable_occlusion_spatial_embedding=False,
    )


def save_for_transformers(weights: str | Path, folder: str | Path, model: ModelConfig) -> Path:
    """Write a checkpoint of an EdgeTAM, of any input size, as a folder with config.json and model.safetensors.

    Raises:
        ValueError: Transformers is not installed, the model is none that its EdgeTamVideoModel can be, or the checkpoint is
            of another model.
    """
    try:
        from transformers import EdgeTamVideoModel
    except ImportError as error:
        raise ValueError(f"This needs Transformers: pip install transformers. ({error})") from error
    state = {official_name(ours): tensor for ours, tensor in load_model(model, weights).state_dict().items()}
    with torch.device("meta"):
        theirs = EdgeTamVideoModel(edgetam_config(model.image_size))
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    renamed, wrong = {}, []
    try:
        renamed = to_huggingface(state, shapes)
        wrong += [name for name, tensor in renamed.items() if tuple(tensor.shape) != shapes[name]]
    except KeyError as error:
        wrong.append(str(error))
    if wrong:
        raise ValueError(
            f"{model.name} is no EdgeTAM as Transformers knows it: {len(wrong)} tensors differ, e.g. {wrong[0]}. Only the "
            "released architecture can be written; et.save_pretrained writes any model, in a layout of ours."
        )
    theirs.load_state_dict(renamed, assign=True)
    with atomic_path(folder) as draft:
        theirs.save_pretrained(draft)
    return Path(folder)
