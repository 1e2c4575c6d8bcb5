"""What a training needs to know of its teacher: how large it looks at pictures, and how its maps are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgetam_pl.config import StageConfig, TrainConfig
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.track_batch import Teacher
from edgetam_pl.weights import load_file

MATCH = "match."
"""Prefix of what the loss has learned, in training checkpoints."""


def load_match(match: FeatureMatch, path: str | Path) -> None:
    """Take up what the loss had learned when a checkpoint was written: a run that starts again between two phases.

    Raises:
        ValueError: the checkpoint lacks it.
    """
    expected = match.state_dict()
    if not expected:
        return
    content: Any = load_file(Path(path))
    content = content.get("state_dict", {})
    state = {name.removeprefix(MATCH): tensor for name, tensor in content.items() if name.startswith(MATCH)}
    if state.keys() != expected.keys():
        raise ValueError(
            f"{path} does not hold the projection that stage.projection=linear has learned; it was written by a training "
            "without one. Begin anew in another folder (out=...), with weights= naming this file."
        )
    match.load_state_dict(state)


def views_of(cfg: TrainConfig) -> tuple[int, ...]:
    """Sides in pixels at which frames are drawn beside the student's own, for teachers of another image size."""
    sizes = {cfg.teacher.image_size} if cfg.teacher is not None else set()
    return tuple(sorted(sizes - {cfg.model.image_size}))


def feature_match(stage: StageConfig, student: TrackAnything, teacher: Teacher | None) -> FeatureMatch:
    """How maps of student and teacher are brought together (stage.resample, stage.projection). Stage 1 has no F_M."""
    channels: dict[str, tuple[int, int]] = {}
    if teacher is not None and stage.projection == "linear":
        pair = (student.dim, teacher.model.dim)
        channels = {"f16": pair} if stage.name == "image" else {"f16": pair, "f_m": pair}
    return FeatureMatch(resample=stage.resample, channels=channels)
