"""The teachers of a training: loading them, how large they look at pictures, how their maps are compared and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgetam_pl.build import build_model, stride_of
from edgetam_pl.config import ModelConfig, StageConfig, TrainConfig
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.teacher_cache import PRECISIONS, TeacherFeatureCache
from edgetam_pl.training.track_batch import Teacher
from edgetam_pl.weights import load_file, load_into

MATCH = "match."
"""Prefix of what the loss has learned, in training checkpoints."""


def load_match(match: nn.Module, path: str | Path) -> None:
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
    sizes = {one.image_size for one in (cfg.teacher, cfg.second_teacher) if one is not None}
    return tuple(sorted(sizes - {cfg.model.image_size}))


def feature_match(stage: StageConfig, student: TrackAnything, teacher: Teacher | None) -> FeatureMatch:
    """How maps of student and teacher are brought together (stage.resample, stage.projection). Stage 1 has no F_M."""
    channels: dict[str, tuple[int, int]] = {}
    if teacher is not None and stage.projection == "linear":
        pair = (student.dim, teacher.model.dim)
        channels = {"f16": pair} if stage.name == "image" else {"f16": pair, "f_m": pair}
    return FeatureMatch(resample=stage.resample, channels=channels)


def load_teachers(cfg: TrainConfig) -> list[Teacher]:
    """The teachers that a configuration names, with their caches.

    Raises:
        ValueError: weights that do not fit.
    """
    named = ((cfg.teacher, cfg.teacher_weights), (cfg.second_teacher, cfg.second_teacher_weights))
    return [_load(cfg, model, weights) for model, weights in named if model is not None and weights is not None]


def _load(cfg: TrainConfig, model: ModelConfig, weights: str) -> Teacher:
    digest = sha256_of(weights)
    cache = None
    if cfg.teacher_cache:
        folder, precision = Path(cfg.teacher_cache), cfg.teacher_cache_precision
        cache = TeacherFeatureCache(folder, teacher=digest, precision=precision, closed=cfg.teacher_cache_only)
    if cache is not None and cache.closed:
        with torch.device("meta"):  # its sizes are known, its weights take no memory
            return Teacher(build_model(model), model.name, digest, cache)
    return Teacher(load_into(build_model(model), weights, cfg=model), model.name, digest, cache)


def cache_bytes(cfg: TrainConfig, model: ModelConfig, *, world: int) -> int:
    """Bytes that the answers of one teacher take at most, if no sample of the run comes twice: F16 of every image, and F_M
    of every object on every frame but the first."""
    tokens = (model.image_size // stride_of(model)) ** 2
    image = tokens * model.dim * PRECISIONS[cfg.teacher_cache_precision].itemsize
    total = 0.0
    weight = sum(source.weight for source in cfg.data.sources)
    for phase in cfg.stage.phases:
        if not phase.distil:
            continue
        for source in cfg.data.sources:
            clips = phase.steps * phase.accumulate * world * (source.batch or phase.batch) * source.weight / weight
            frames = phase.frames if source.kind == "video" else 1
            objects = (source.max_objects or cfg.stage.max_objects) if cfg.stage.name == "video" else 0
            total += clips * image * (frames + objects * (frames - 1))
    return round(total)
