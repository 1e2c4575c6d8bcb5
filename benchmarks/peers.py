"""The other two ways to run EdgeTAM: the PyPI package `edgetam-dimos` and Hugging Face's `EdgeTamVideoModel`.

Each is given the same official weights and the same frames, and tracks from the same click. A package that is missing is
no error: `available` says why a peer cannot take part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import edgetam_pl  # noqa: F401  (declares what torchvision needs before anything imports it)

PACKAGES = {"edgetam-dimos": ("sam2",), "huggingface": ("transformers", "tokenizers", "regex")}
"""What each peer imports."""

HF_RULES: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.trunk\.body\.", "vision_encoder.backbone.timm_model."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"^(memory_encoder.*)\.gamma$", r"\1.scale"),
    (r"^(memory_encoder.*)\.dwconv\.", r"\1.depthwise_conv."),
    (r"^(memory_encoder.*)\.norm\.", r"\1.layer_norm."),
    (r"^(memory_encoder.*)\.pwconv(\d)\.", r"\1.pointwise_conv\2."),
    (r"^(memory_attention.*)\.linear1\.", r"\1.mlp.up_proj."),
    (r"^(memory_attention.*)\.linear2\.", r"\1.mlp.down_proj."),
    (r"^(memory_attention|spatial_perceiver)\.norm\.", r"\1.layer_norm."),
    (r"^spatial_perceiver\.latents$", "spatial_perceiver.latents_1d"),
    (r"^(spatial_perceiver.*)\.attn\.norm_x\.", r"\1.layer_norm_input."),
    (r"^(spatial_perceiver.*)\.attn\.norm_latents\.", r"\1.layer_norm_latents."),
    (r"^(spatial_perceiver.*)\.self_attn\.norm\.", r"\1.layer_norm_self."),
    (r"^(spatial_perceiver.*)\.attn\.", r"\1.cross_attention."),
    (r"^(spatial_perceiver.*)\.self_attn\.", r"\1.self_attention."),
    (r"^(spatial_perceiver.*)\.ff\.", r"\1.mlp."),
    (r"^(spatial_perceiver.*)\.self_ff\.", r"\1.self_mlp."),
    (r"^(spatial_perceiver.*mlp)\.0\.", r"\1.layer_norm."),
    (r"^(spatial_perceiver.*mlp)\.1\.", r"\1.up_proj."),
    (r"^(spatial_perceiver.*mlp)\.3\.", r"\1.down_proj."),
    (r"\.to_([qkv])\.", r".\1_proj."),
    (r"\.(out_proj|to_out)\.", ".o_proj."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^(mask_decoder\.transformer.*mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"^(mask_decoder\.transformer.*mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"^(.*(?:hypernetworks_mlps\.\d|_head|pointer_proj))\.layers\.0\.", r"\1.proj_in."),
    (r"^(.*(?:hypernetworks_mlps\.\d|_head|pointer_proj))\.layers\.2\.", r"\1.proj_out."),
    (r"^(.*(?:hypernetworks_mlps\.\d|_head|pointer_proj))\.layers\.1\.", r"\1.layers.0."),
)
"""Official name -> Hugging Face's, applied in order."""


def available(peer: str) -> str | None:
    """None when the peer can run here, else why not."""
    missing = [package for package in PACKAGES[peer] if find_spec(package) is None]
    return None if not missing else f"not installed: {', '.join(missing)}"


def track_with_package(weights: Path, images: Tensor, click: tuple[float, float], *, device: str) -> Iterator[Tensor]:
    """Logits (S, S) of each frame by `edgetam-dimos`'s video predictor, without post-processing.

    Args:
        weights: official file.
        images: (T, 3, S, S) normalised; its own loader would resize and normalise them so before the first frame.
        click: (x, y) in pixels of the S x S frames.
    """
    import hydra
    import sam2.modeling.backbones.timm as backbones
    from hydra.core.global_hydra import GlobalHydra
    from sam2 import sam2_video_predictor
    from sam2.build_sam import build_sam2_video_predictor

    def untrained(name: str, *, pretrained: bool, **arguments: object) -> torch.nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **arguments)  # nothing is downloaded; weights follow

    side = images.shape[-1]
    with patch.object(backbones, "create_model", untrained):
        GlobalHydra.instance().clear()
        hydra.initialize_config_module("sam2", version_base="1.2")
        predictor = build_sam2_video_predictor(
            "edgetam.yaml",
            str(weights),
            device=device,
            apply_postprocessing=False,
            hydra_overrides_extra=_package_size(side),
        )
        GlobalHydra.instance().clear()
    with patch.object(sam2_video_predictor, "load_video_frames", lambda **_: (images.to(device), side, side)):
        state = predictor.init_state("frames given")
    predictor.add_new_points_or_box(state, 0, 1, points=np.array([click], np.float32), labels=np.array([1], np.int32))
    for _, _, logits in predictor.propagate_in_video(state):
        yield logits[0, 0]


def track_with_huggingface(weights: Path, images: Tensor, click: tuple[float, float], *, device: str) -> Iterator[Tensor]:
    """The same by `EdgeTamVideoModel`, enlarged to S x S as its processor does."""
    from transformers import (
        EdgeTamVideoConfig,
        EdgeTamVideoInferenceSession,
        EdgeTamVideoModel,
        EdgeTamVisionConfig,
        TimmWrapperConfig,
    )

    side = images.shape[-1]
    backbone = TimmWrapperConfig(
        architecture="repvit_m1.dist_in1k", model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    )
    config = EdgeTamVideoConfig(
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
    model = EdgeTamVideoModel(config).eval().to(device)
    model.load_state_dict(
        huggingface_state(torch.load(weights, map_location="cpu", weights_only=True)["model"]), strict=True
    )
    session = EdgeTamVideoInferenceSession(
        video=images.to(device), video_height=side, video_width=side, inference_device=device, dtype=torch.float32
    )
    inputs = {"point_coords": torch.tensor([[[click]]]), "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
    index = session.obj_id_to_idx(1)
    session.add_point_inputs(index, 0, inputs)
    session.obj_with_new_inputs = [1]
    for answer in model.propagate_in_video_iterator(session, start_frame_idx=0):
        yield F.interpolate(answer.pred_masks.float(), (side, side), mode="bilinear", align_corners=False)[0, 0]


def huggingface_state(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict of EdgeTAM under Hugging Face's names."""
    state: dict[str, Tensor] = {}
    for name, tensor in official.items():
        if name.endswith(".to_kv.weight"):
            key, value = tensor.chunk(2)
            state[_huggingface_name(name.replace("to_kv", "to_k"))] = key
            state[_huggingface_name(name.replace("to_kv", "to_v"))] = value
        elif "point_embeddings" not in name:
            state[_huggingface_name(name)] = tensor
    points = [official[f"sam_prompt_encoder.point_embeddings.{label}.weight"] for label in range(4)]
    state["prompt_encoder.point_embed.weight"] = torch.cat(points)
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    return state


def _huggingface_name(name: str) -> str:
    layer = re.match(r"memory_encoder\.mask_downsampler\.encoder\.(\d+)\.(.*)", name)
    if layer and int(layer[1]) < 12:  # three modules a layer: convolution, norm, activation
        kind = "conv" if int(layer[1]) % 3 == 0 else "layer_norm"
        return f"memory_encoder.mask_downsampler.layers.{int(layer[1]) // 3}.{kind}.{layer[2]}"
    for pattern, replacement in HF_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _package_size(side: int) -> list[str]:
    """Overrides of its configuration for another input side."""
    if side == 1024:
        return []
    cells = side // 16
    layer = "model.memory_attention.layer"
    return [
        f"++model.image_size={side}",
        f"++{layer}.self_attention.feat_sizes=[{cells},{cells}]",
        f"++{layer}.cross_attention.q_sizes=[{cells},{cells}]",
    ]
