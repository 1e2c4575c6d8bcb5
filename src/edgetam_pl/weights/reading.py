"""Files of tensors, as people have them (official .pt, Lightning checkpoint, safetensors, Hugging Face's names, a bare state
dict): tensors under official names. Nothing is downloaded here, and no code from a file is run."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.config import ModelConfig
from edgetam_pl.config.choices import did_you_mean
from edgetam_pl.io import released, shipped
from edgetam_pl.io.torch_files import damage_in
from edgetam_pl.io.transformers_folder import model_in, tensor_files
from edgetam_pl.model.sam3_names import is_sam3, tracker_of
from edgetam_pl.weights.cards import CARD, recorded_model
from edgetam_pl.weights.fitting import first_of
from edgetam_pl.weights.names import from_huggingface, maybe_official_name

_LOG = logging.getLogger(__name__)


STUDENT = "student."
"""Prefix of the model's keys in our training checkpoints."""


WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that DataParallel, torch.compile and FSDP put in front; none of them is a name of a model's own."""


_NUMPY: list[Any] = [
    # what a number of NumPy in a checkpoint needs (SAM 2's trainer keeps its losses so); by both names of the module
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]


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


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's content, under the names that they have there."""
    if isinstance(content, Mapping):
        for inner in (content.get("model"), content.get("state_dict"), content):
            if isinstance(inner, Mapping) and (state := tensors_of(inner)):
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
        return {maybe_official_name(name): tensor for name, tensor in state.items()}, "ours"
    raise ValueError(
        f"{path} holds tensors of no model that is known ({first_of(state)}); official files, Hugging Face's video models "
        "of EdgeTAM and SAM 2, and our own checkpoints are. For pre-trained weights of a trunk alone, use trunk_weights."
    )


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
        return {name: tensor for file in tensor_files(path) for name, tensor in tensors_of(load_file(file)).items()}
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


def tensors_of(content: object) -> dict[str, Tensor]:
    assert isinstance(content, Mapping)
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
