"""Names of tensors, others' <-> ours: one table, read in either direction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

NAMES: tuple[tuple[str, str], ...] = (
    # ours, theirs; {i} stands for a number, and a row speaks for everything below it. The first row that fits decides.
    ("image_encoder.trunk.body.model.blocks.{i}.mlp.fc1", "image_encoder.trunk.blocks.{i}.mlp.layers.0"),
    ("image_encoder.trunk.body.model.blocks.{i}.mlp.fc2", "image_encoder.trunk.blocks.{i}.mlp.layers.1"),
    ("image_encoder.trunk.body.model", "image_encoder.trunk"),  # Hiera
    ("image_encoder.trunk.body.blocks.{i}.mlp.fc1", "image_encoder.trunk.blocks.{i}.mlp.layers.0"),
    ("image_encoder.trunk.body.blocks.{i}.mlp.fc2", "image_encoder.trunk.blocks.{i}.mlp.layers.1"),
    ("image_encoder.trunk.body.blocks", "image_encoder.trunk.blocks"),  # plain ViT
    ("image_encoder.trunk.body.ln_pre", "image_encoder.trunk.ln_pre"),  # SAM 3
    ("image_encoder.trunk.body.patch_embed", "image_encoder.trunk.patch_embed"),
    ("image_encoder.trunk.body.pos_embed", "image_encoder.trunk.pos_embed"),
    ("image_encoder.trunk.body", "image_encoder.trunk.body"),  # RepViT
    ("image_encoder.neck.lateral.s32", "image_encoder.neck.convs.0.conv"),
    ("image_encoder.neck.lateral.s16", "image_encoder.neck.convs.1.conv"),
    ("image_encoder.neck.lateral.s8", "image_encoder.neck.convs.2.conv"),
    ("image_encoder.neck.lateral.s4", "image_encoder.neck.convs.3.conv"),
    ("image_encoder.neck.project_f4", "sam_mask_decoder.conv_s0"),
    ("image_encoder.neck.project_f8", "sam_mask_decoder.conv_s1"),
    ("image_encoder.neck.levels.{i}", "image_encoder.neck.convs.{i}"),  # SAM 3
    ("image_encoder.neck", "image_encoder.neck.convs.0"),  # single level
    ("memory_attention.age", "maskmem_tpos_enc"),
    ("memory_attention.no_memory", "no_mem_embed"),
    ("memory_attention.no_memory_pos", "no_mem_pos_enc"),
    ("memory_attention.pointer_age", "obj_ptr_tpos_proj"),
    ("memory_attention.blocks.{i}.self_attention", "memory_attention.layers.{i}.self_attn"),
    ("memory_attention.blocks.{i}.cross_attention", "memory_attention.layers.{i}.cross_attn_image"),
    ("memory_attention.blocks.{i}.ffn_in", "memory_attention.layers.{i}.linear1"),
    ("memory_attention.blocks.{i}.ffn_out", "memory_attention.layers.{i}.linear2"),
    ("memory_attention.blocks.{i}", "memory_attention.layers.{i}"),
    ("memory_attention.norm", "memory_attention.norm"),
    ("memory_encoder.occluded", "no_obj_embed_spatial"),
    ("memory_encoder.mask_downsampler", "memory_encoder.mask_downsampler.encoder"),
    ("memory_encoder.fuser.{i}", "memory_encoder.fuser.layers.{i}"),
    ("memory_encoder", "memory_encoder"),
    ("compressor.global_latents", "spatial_perceiver.latents"),
    ("compressor.spatial_latents", "spatial_perceiver.latents_2d"),
    ("compressor.layers.{i}.attention", "spatial_perceiver.layers.{i}.attn"),
    ("compressor.layers.{i}.ffn", "spatial_perceiver.layers.{i}.ff"),
    ("compressor.layers.{i}.self_attention", "spatial_perceiver.layers.{i}.self_attn"),
    ("compressor.layers.{i}.self_ffn", "spatial_perceiver.layers.{i}.self_ff"),
    ("compressor.norm", "spatial_perceiver.norm"),
    ("prompt_encoder.fourier.matrix", "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("prompt_encoder.labels.{i}", "sam_prompt_encoder.point_embeddings.{i}"),
    ("prompt_encoder.padding", "sam_prompt_encoder.not_a_point_embed"),
    ("prompt_encoder.no_mask", "sam_prompt_encoder.no_mask_embed"),
    ("prompt_encoder.mask_downscaling", "sam_prompt_encoder.mask_downscaling"),
    ("mask_decoder.presence_token", "sam_mask_decoder.obj_score_token"),
    ("mask_decoder.iou_token", "sam_mask_decoder.iou_token"),
    ("mask_decoder.mask_tokens", "sam_mask_decoder.mask_tokens"),
    ("mask_decoder.blocks.{i}", "sam_mask_decoder.transformer.layers.{i}"),
    ("mask_decoder.final_attention", "sam_mask_decoder.transformer.final_attn_token_to_image"),
    ("mask_decoder.final_norm", "sam_mask_decoder.transformer.norm_final_attn"),
    ("mask_decoder.upscale_f8", "sam_mask_decoder.output_upscaling.0"),
    ("mask_decoder.upscale_norm", "sam_mask_decoder.output_upscaling.1"),
    ("mask_decoder.upscale_f4", "sam_mask_decoder.output_upscaling.3"),
    ("mask_decoder.mask_heads", "sam_mask_decoder.output_hypernetworks_mlps"),
    ("mask_decoder.iou_head", "sam_mask_decoder.iou_prediction_head"),
    ("mask_decoder.presence_head", "sam_mask_decoder.pred_obj_score_head"),
    ("mask_decoder.pointer_head", "obj_ptr_proj"),
    ("mask_decoder.no_pointer", "no_obj_ptr"),
    ("mask_decoder.shrink", "mask_downsample"),
)


_FOURIER = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


HUGGINGFACE: tuple[tuple[str, str], ...] = (
    # Hugging Face's (EdgeTamVideoModel, Sam2VideoModel), official: applied in order
    (r"^vision_encoder\.backbone\.timm_model\.", "image_encoder.trunk.body."),
    (r"^vision_encoder\.backbone\.(patch_embed\.proj)ection\.", r"image_encoder.trunk.\1."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^(prompt_encoder\.shared|shared_image)_embedding\.positional_embedding$", _FOURIER),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
    (r"^(memory_encoder.*)\.scale$", r"\1.gamma"),
    (r"^(memory_encoder.*)\.depthwise_conv\.", r"\1.dwconv."),
    (r"^(memory_encoder.*)\.pointwise_conv(\d)\.", r"\1.pwconv\2."),
    (r"^memory_encoder\.mask_downsampler\.final_conv\.", "memory_encoder.mask_downsampler.encoder.12."),
    *(  # three modules a layer: convolution, norm, activation
        (rf"^(memory_encoder\.mask_downsampler)\.layers\.{i}\.{kind}\.", rf"\1.encoder.{3 * i + k}.")
        for i in range(4)
        for k, kind in enumerate(("conv", "layer_norm"))
    ),
    (r"^(memory_attention.*)\.mlp\.up_proj\.", r"\1.linear1."),
    (r"^(memory_attention.*)\.mlp\.down_proj\.", r"\1.linear2."),
    (r"^spatial_perceiver\.latents_1d$", "spatial_perceiver.latents"),
    (r"^(spatial_perceiver.*)\.layer_norm_input\.", r"\1.attn.norm_x."),
    (r"^(spatial_perceiver.*)\.layer_norm_latents\.", r"\1.attn.norm_latents."),
    (r"^(spatial_perceiver.*)\.layer_norm_self\.", r"\1.self_attn.norm."),
    (r"^(spatial_perceiver.*)\.cross_attention\.", r"\1.attn."),
    (r"^(spatial_perceiver.*)\.self_attention\.", r"\1.self_attn."),
    (r"^(spatial_perceiver.*)\.(self_|)mlp\.layer_norm\.", r"\1.\2ff.0."),
    (r"^(spatial_perceiver.*)\.(self_|)mlp\.up_proj\.", r"\1.\2ff.1."),
    (r"^(spatial_perceiver.*)\.(self_|)mlp\.down_proj\.", r"\1.\2ff.3."),
    (r"^(spatial_perceiver.*)\.([qkv])_proj\.", r"\1.to_\2."),
    (r"^(spatial_perceiver.*)\.o_proj\.", r"\1.to_out."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm", ".norm"),
    (r"^(.*(?:hypernetworks_mlps\.\d|_head|obj_ptr_proj))\.layers\.0\.", r"\1.layers.1."),
    (r"^(.*(?:hypernetworks_mlps\.\d|_head|obj_ptr_proj))\.proj_out\.", r"\1.layers.2."),
    (r"\.proj_in\.", ".layers.0."),
    (r"\.proj_out\.", ".layers.1."),
)  # fmt: skip
"""One name to one name; what Hugging Face joins or splits is in `from_huggingface`."""


def _pattern(ours: str) -> re.Pattern[str]:
    return re.compile(re.escape(ours).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<rest>(\..+)?)")


_ROWS = tuple((_pattern(ours), theirs) for ours, theirs in NAMES)


def official_name(ours: str) -> str:
    """The official name of one of our keys.

    >>> official_name("memory_attention.blocks.1.ffn_in.weight")
    'memory_attention.layers.1.linear1.weight'
    """
    for pattern, name in _ROWS:
        match = pattern.fullmatch(ours)
        if match is not None:
            return name.format(i=match["i"] if "i" in pattern.groupindex else "") + match["rest"]
    raise AssertionError(f"No row of NAMES speaks for {ours}.")


def maybe_official_name(name: str) -> str:
    """The official name of one of our keys; a name that no row speaks for stays, and is listed as unexpected later."""
    return official_name(name) if any(pattern.fullmatch(name) for pattern, _ in _ROWS) else name


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in Hugging Face's names under official ones. Keys and values that share a matrix are joined, the four
    kinds of points come apart."""
    renamed = {official_of_huggingface(name): tensor for name, tensor in state.items()}
    result: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        if name == "sam_prompt_encoder.point_embed.weight":
            result |= {f"sam_prompt_encoder.point_embeddings.{i}.weight": row[None] for i, row in enumerate(tensor)}
        elif ".to_k." in name and name.replace(".to_k.", ".to_v.") in renamed:
            result[name.replace(".to_k.", ".to_kv.")] = torch.cat([tensor, renamed[name.replace(".to_k.", ".to_v.")]])
        elif not (".to_v." in name and name.replace(".to_v.", ".to_k.") in renamed):
            result[name] = tensor
    return result


def to_huggingface(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state dict in official names under Hugging Face's `names`: the opposite of `from_huggingface`.

    Raises:
        KeyError: a name that speaks of no tensor of this state.
    """
    known = dict(state)
    for name, tensor in state.items():
        if ".to_kv." in name:
            known |= {name.replace("to_kv", part): half for part, half in zip(("to_k", "to_v"), tensor.chunk(2))}
    points = [state[f"sam_prompt_encoder.point_embeddings.{label}.weight"] for label in range(4)]
    known["sam_prompt_encoder.point_embed.weight"] = torch.cat(points)
    return {name: known[official_of_huggingface(name)].contiguous().clone() for name in names}


def official_of_huggingface(name: str) -> str:
    """The official name of one of Hugging Face's.

    >>> official_of_huggingface("memory_attention.layers.1.mlp.up_proj.weight")
    'memory_attention.layers.1.linear1.weight'
    """
    for pattern, replacement in HUGGINGFACE:
        name = re.sub(pattern, replacement, name)
    return name


def seems_to_be(state: Mapping[str, Tensor]) -> str | None:
    """The zoo model whose official weights these seem to be, by trunk and parts; None if it cannot be told."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    position = shapes.get("image_encoder.trunk.pos_embed", ())
    if "image_encoder.trunk.body.stem.conv1.c.weight" in shapes:
        return "edgetam"
    if len(position) == 3:
        return {1024: "sam3_tracker", 192: "efficienttam_ti", 384: "efficienttam_s"}.get(position[2])
    if len(position) == 4:
        blocks = len({name.split(".")[3] for name in shapes if name.startswith("image_encoder.trunk.blocks.")})
        size = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}.get((position[1], blocks))
        return None if size is None else f"sam2{'.1' if 'obj_ptr_tpos_proj.weight' in shapes else ''}_hiera_{size}"
    return None
