"""Into a model, strictly, and out of it: files that we write carry a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetam_pl.config import ModelConfig
from edgetam_pl.io.atomic import atomic_path, room_for
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights.cards import CARD, compare_cards, plain
from edgetam_pl.weights.fitting import require_fit
from edgetam_pl.weights.names import official_name, seems_to_be
from edgetam_pl.weights.reading import STUDENT, Contents, contents

PARTS = {
    "images": ("image_encoder.", "prompt_encoder.", "mask_decoder.", "memory_attention.no_memory"),
    "all_but_compressor": ("image_encoder.", "prompt_encoder.", "mask_decoder.", "memory_attention.", "memory_encoder."),
    "equal_shapes": ("",),
}
"""Parts that a model can take from a checkpoint of another model, by the beginnings of their names: what works on single
frames, all that stage 1 trains (without memory, its own embedding is added); everything but the compressor; or everything,
where the other model has equal shapes, e.g. another image size."""


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
        compare_cards(cfg, found.card, Path(path))
    expected = model.state_dict()
    theirs = {official_name(ours): ours for ours in expected}
    _compare(found, {name: expected[ours] for name, ours in theirs.items()}, path=Path(path))
    model.load_state_dict({theirs[name]: tensor for name, tensor in found.state.items()}, strict=True)
    return model


def load_parts(model: TrackAnything, path: str | Path, which: str = "images") -> TrackAnything:
    """Load the parts named in PARTS from any checkpoint that has them; the others stay as they are.

    Raises:
        ValueError: the file lacks something that these parts have, or has it in another shape.
    """
    if which == "equal_shapes":
        return load_into(model, path)
    _refuse_fused(model)
    found = contents(path)
    expected = model.state_dict()
    parts = {official_name(n): n for n in expected if n.startswith(PARTS[which])}
    state = {name: tensor for name, tensor in found.state.items() if name in parts}
    _compare(found._replace(state=state), {name: expected[n] for name, n in parts.items()}, path=Path(path))
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
    write(content if card is None else {**content, CARD: plain(card)}, Path(path))


def save_ours(model: TrackAnything, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write the model as our training names it: {"state_dict": student.*, "edgetam_pl": card}. Plain values in the card.

    Raises:
        ValueError: the model is fused.
    """
    _refuse_fused(model)
    state = {STUDENT + name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    write({"state_dict": state, CARD: plain(card)}, Path(path))


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


def _refuse_fused(model: TrackAnything) -> None:
    if model.fused:
        raise ValueError("A fused model has lost the parts that checkpoints name; load or save before fusing it.")


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

    require_fit(found.state, {name: tuple(tensor.shape) for name, tensor in expected.items()}, path=path, cure=cure)
