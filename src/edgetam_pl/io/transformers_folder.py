"""Folders of Hugging Face's Transformers (config.json and model.safetensors): which model they hold, and in which files.

`EdgeTamVideo`, `Sam2Video`, `Sam3TrackerVideo` and the whole `Sam3Video`. Only JSON is read here; what config.json leaves
out has the default that Transformers gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetam_pl.config import CompressorConfig, ModelConfig

CONFIG = "config.json"
TENSORS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names, and in which of several files each tensor lies."""

_HIERA = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}
"""By width and number of blocks."""

_VIT = {
    # trunk_args: name and default in Transformers
    "dim": ("hidden_size", 1024),
    "heads": ("num_attention_heads", 16),
    "depth": ("num_hidden_layers", 32),
    "hidden": ("intermediate_size", 4736),
    "patch": ("patch_size", 14),
    "window": ("window_size", 24),
    "attend_everywhere": ("global_attn_indexes", [7, 15, 23, 31]),
}


def tensor_files(folder: Path) -> list[Path]:
    """The files with the tensors of a folder.

    Raises:
        ValueError: it has none, or not all that its index names.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(_json(folder / INDEX)["weight_map"].values()))
    else:
        names = [TENSORS]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; a folder of Transformers has {CONFIG} and {TENSORS}. Save the model with "
            "save_pretrained(FOLDER), or copy all its files."
        )
    return [folder / name for name in names]


def model_in(folder: Path) -> ModelConfig:
    """The configuration of the model in a folder.

    Raises:
        ValueError: no config.json, or a model that is none of a tracker known here.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}; give a folder of Transformers, or a checkpoint file.")
    found = _json(folder / CONFIG)
    kind = found.get("model_type")
    if kind not in _KINDS:
        raise ValueError(
            f"{folder / CONFIG} describes a {kind}; a tracker is one of {', '.join(_KINDS)}. (An image model of SAM has no "
            "memory: save its video model.)"
        )
    return _KINDS[kind](found)


def _edgetam(found: Mapping[str, Any]) -> ModelConfig:
    latents = CompressorConfig(
        global_latents=found.get("perceiver_resampler_num_latents", 256),
        spatial_latents=found.get("perceiver_resampler_num_latents_2d", 256),
        depth=found.get("perceiver_resampler_num_layers", 2),
    )
    return ModelConfig(name="edgetam", compressor=latents, **_memory(found, blocks=2, side=1024))


def _sam2(found: Mapping[str, Any]) -> ModelConfig:
    backbone = (found.get("vision_config") or {}).get("backbone_config") or {}
    width, blocks = backbone.get("hidden_size", 96), sum(backbone.get("blocks_per_stage") or [1, 2, 7, 2])
    size = _HIERA.get((width, blocks))
    if size is None:
        raise ValueError(
            f"Its Hiera has width {width} and {blocks} blocks; SAM 2's are {', '.join(map(str, _HIERA))} (width, blocks)."
        )
    settings = _memory(found, blocks=4, side=1024)
    name = f"sam2{'.1' if settings['pointer_age'] else ''}_hiera_{size}"
    return ModelConfig(name=name, trunk=f"sam2_hiera_{size}", compressor=CompressorConfig(kind="none"), **settings)


def _sam3(found: Mapping[str, Any]) -> ModelConfig:
    vision = (found.get("detector_config") or found).get("vision_config") or {}
    tracker = found.get("tracker_config") or found
    backbone = vision.get("backbone_config") or {}
    given = {key: backbone.get(name, default) for key, (name, default) in _VIT.items()}
    given["pretrained"] = backbone.get("pretrain_image_size", 336) // given["patch"]
    usual = {**{key: default for key, (_, default) in _VIT.items()}, "pretrained": 24}
    return ModelConfig(
        name="sam3_tracker",
        trunk="sam3_vit",
        trunk_args={key: value for key, value in given.items() if value != usual[key]},
        neck="pyramid",
        pixels="half",
        compressor=CompressorConfig(kind="none"),
        decoder_mlp=(tracker.get("mask_decoder_config") or {}).get("mlp_dim", 2048),
        **_memory(tracker, blocks=4, side=backbone.get("image_size", 1008)),
    )


_KINDS = {"edgetam_video": _edgetam, "sam2_video": _sam2, "sam3_tracker_video": _sam3, "sam3_video": _sam3}
"""By `model_type`."""


def _memory(found: Mapping[str, Any], *, blocks: int, side: int) -> dict[str, Any]:
    """What all of them say in the same words."""
    hidden = "memory_attention_mlp_hidden_size", "memory_attention_feed_forward_hidden_size"
    return {
        "image_size": found.get("image_size") or (found.get("prompt_encoder_config") or {}).get("image_size") or side,
        "memory_blocks": found.get("memory_attention_num_layers", blocks),
        "memory_ffn": next((found[name] for name in hidden if name in found), 2048),
        "pointer_age": found.get("enable_temporal_pos_encoding_for_object_pointers", True),
        "occlusion_embedding": found.get("enable_occlusion_spatial_embedding", True),
    }


def _json(path: Path) -> dict[str, Any]:
    """Raises ValueError where the file is no JSON object."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy the folder again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not an object; copy the folder again.")
    return found
