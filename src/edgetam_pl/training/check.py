"""What cannot work is refused here, with keys and values, before a weight is allocated or a process is started."""

from __future__ import annotations

import os
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import torch

from edgetam_pl.build import validate
from edgetam_pl.config import PhaseConfig, TrainConfig
from edgetam_pl.data.loader import build_loader
from edgetam_pl.io.transformers_folder import CONFIG
from edgetam_pl.losses.match import PROJECTION, RESAMPLE
from edgetam_pl.losses.objective import Objective
from edgetam_pl.training.optim import schedule_of
from edgetam_pl.training.step import STAGES
from edgetam_pl.training.teachers import views_of
from edgetam_pl.training.trainer import trainer_arguments
from edgetam_pl.types import VERBS
from edgetam_pl.weights import PARTS

CHOICES = {
    "stage.name": STAGES,
    "stage.teacher_memory": ("own", "student"),
    "stage.teacher_logits": ("own", "student"),
    "stage.teachers": ("average", "by_kind"),
    "stage.resample": RESAMPLE,
    "stage.projection": PROJECTION,
    "load_parts": ("all", *PARTS),
    "logger.kind": ("none", "wandb", "csv", "tensorboard"),
    "launcher.kind": ("local", "slurm"),
}


LEAST = {
    "checkpoint_every": 1, "seed": 0, "stage.max_objects": 1, "data.workers": 0, "validation.every": 0,
    "validation.times": 0, "validation.patience": 0, "validation.clips": 0, "logger.log_every": 1, "logger.panels_every": 0,
    "logger.gradient_shares_every": 0, "launcher.nodes": 1, "launcher.tasks_per_node": 1,
}  # fmt: skip
"""Numbers below which a key means nothing, or something that nobody asked for: checkpoint_every=0 would save none."""


def check(cfg: TrainConfig) -> None:
    """Refuse a configuration that cannot be trained, whatever the data.

    Raises:
        ValueError: naming keys, values and the cure.
    """
    for key, legal in CHOICES.items():
        if (value := attrgetter(key)(cfg)) not in legal:
            raise ValueError(f"{key} is {value!r}; use one of {', '.join(legal)}.")
    for key, least in LEAST.items():
        if (value := attrgetter(key)(cfg)) < least:
            raise ValueError(f"{key} is {value}; it must be at least {least}.")
    if cfg.keep_checkpoints < 1 and cfg.keep_checkpoints != -1:
        raise ValueError(f"keep_checkpoints is {cfg.keep_checkpoints}; it must be at least 1, or -1 to keep all.")
    if not cfg.out.strip():
        raise ValueError("out is empty; give the folder of the run.")
    try:
        Objective.of(cfg.stage)
    except ValueError as error:
        raise ValueError(f"stage.{error}") from error
    validate(cfg.model)
    trainer_arguments(cfg.trainer)
    if not cfg.stage.phases:
        raise ValueError("stage.phases is empty; give at least one phase.")
    for number, phase in enumerate(cfg.stage.phases):
        _check_phase(cfg, number, phase)
    _check_teacher(cfg)
    _check_memory_options(cfg)


def check_data(cfg: TrainConfig) -> None:
    """Refuse weights that are not there, and phases that the shards cannot feed: clips longer than any, or a step larger
    than the set. Manifests are read.

    Raises:
        ValueError: naming the key and the file, or the phase, the source, and what they hold.
    """
    for key in ("weights", "trunk_weights", "teacher_weights", "second_teacher_weights"):
        path = getattr(cfg, key)
        if path is not None and not Path(path).is_file() and not (Path(path) / CONFIG).is_file():
            raise ValueError(f"There is no checkpoint at {key}={path}; give the path of a file that exists.")
    for number, phase in enumerate(cfg.stage.phases):
        try:
            build_loader(
                replace(cfg.data, workers=0),
                image_size=cfg.model.image_size,
                num_frames=phase.frames,
                batch=phase.batch,
                max_objects=cfg.stage.max_objects,
                steps=phase.steps * phase.accumulate,
                seed=cfg.seed,
                rank=0,
                world_size=ranks(cfg),
                train=True,
                views=views_of(cfg) if phase.distil else (),
            )
        except ValueError as error:
            raise ValueError(f"stage.phases[{number}] (frames={phase.frames}, batch={phase.batch}): {error}") from error


def in_this_world(cfg: TrainConfig) -> TrainConfig:
    """The same configuration with the devices and nodes that torchrun found: machines of an elastic start come and go, and
    what was given is their largest number. `total_batch` keeps the optimiser's steps what they are."""
    world, local = (os.environ.get(key, "") for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if "TORCHELASTIC_RUN_ID" not in os.environ or not (world.isdigit() and local.isdigit()) or int(world) % int(local):
        return cfg
    found = {"devices": int(local), "num_nodes": int(world) // int(local)}
    return cfg if ranks(cfg) == int(world) else replace(cfg, trainer={**cfg.trainer, **found})


def ranks(cfg: TrainConfig) -> int:
    """Processes of the trainer: devices times nodes."""
    given = cfg.trainer.get("devices", 1)
    if isinstance(given, list | tuple):
        devices = len(given)
    elif isinstance(given, int) and given > 0:
        devices = given
    else:  # auto, -1
        devices = max(torch.cuda.device_count(), 1) if str(cfg.trainer.get("accelerator", "auto")) != "cpu" else 1
    return devices * int(cfg.trainer.get("num_nodes", 1))


def accumulation(cfg: TrainConfig, number: int) -> int:
    """Batches per optimiser step of phase `number`: given, or what total_batch asks of these ranks.

    Raises:
        ValueError: total_batch is no multiple of batch x ranks.
    """
    phase, world = cfg.stage.phases[number], ranks(cfg)
    if not phase.total_batch:
        return phase.accumulate
    at_once = phase.batch * world
    if phase.total_batch % at_once:
        raise ValueError(
            f"stage.phases[{number}].total_batch is {phase.total_batch}, which batch={phase.batch} x {world} ranks "
            f"(trainer.devices x trainer.num_nodes) = {at_once} does not divide. Change batch or the number of ranks, or "
            "set total_batch=0 and accumulate."
        )
    return phase.total_batch // at_once


def with_accumulation(cfg: TrainConfig) -> TrainConfig:
    """The same configuration with `accumulate` of every phase as total_batch asks."""
    phases = [replace(phase, accumulate=accumulation(cfg, number)) for number, phase in enumerate(cfg.stage.phases)]
    return replace(cfg, stage=replace(cfg.stage, phases=phases))


def _check_phase(cfg: TrainConfig, number: int, phase: PhaseConfig) -> None:
    name, stage = f"stage.phases[{number}]", cfg.stage
    for key in ("frames", "steps", "batch", "accumulate"):
        if (value := getattr(phase, key)) < 1:
            raise ValueError(f"{name}.{key} is {value}; it must be at least 1.")
    if phase.total_batch < 0:
        raise ValueError(f"{name}.total_batch is {phase.total_batch}; give the clips of a step over all ranks, or 0.")
    if stage.name == "image" and phase.frames != 1:
        raise ValueError(f"stage=image trains on single frames; {name}.frames is {phase.frames}, use 1.")
    try:
        schedule_of(stage.optim, phase)
    except ValueError as error:
        raise ValueError(f"{name} (steps={phase.steps}) with stage.optim: {error}") from error
    accumulation(cfg, number)


def _check_teacher(cfg: TrainConfig) -> None:
    if cfg.weights is not None and cfg.trunk_weights is not None:
        raise ValueError(
            f"weights={cfg.weights} is a whole model, trunk_weights={cfg.trunk_weights} its trunk alone; give one of them."
        )
    for group, model in (("teacher", cfg.teacher), ("second_teacher", cfg.second_teacher)):
        weights = getattr(cfg, f"{group}_weights")
        if (model is None) != (weights is None):
            raise ValueError(
                f"A teacher needs both model@{group}=NAME and {group}_weights=FILE; "
                f"given: {'no' if model is None else model.name} teacher and weights {weights}."
            )
        if model is None:
            continue
        validate(model)
        if cfg.model.dim != model.dim and cfg.stage.projection == "none":
            raise ValueError(
                f"The teacher's F16 has {model.dim} channels ({group}.dim), the student's {cfg.model.dim} (model.dim); "
                "distillation compares them number by number. Give both the same dim, or learn a projection with "
                "stage.projection=linear."
            )
    if cfg.second_teacher is not None and cfg.teacher is None:
        raise ValueError("There is a second_teacher and no teacher; name the first one with model@teacher=NAME.")
    _check_teacher_cache(cfg)


def _check_teacher_cache(cfg: TrainConfig) -> None:
    if not cfg.teacher_cache:
        if cfg.teacher_cache_only:
            raise ValueError("teacher_cache_only=true leaves the teacher out, and no teacher_cache names its answers.")
        return
    if cfg.teacher is None:
        raise ValueError(
            f"teacher_cache={cfg.teacher_cache} keeps the answers of a teacher, and there is none. Leave it empty, or name "
            "a teacher with model@teacher=NAME."
        )
    if cfg.stage.name == "image":
        return
    prompts = cfg.stage.prompts
    if (cfg.stage.teacher_memory, cfg.stage.teacher_logits) != ("own", "own"):
        raise ValueError(
            f"teacher_cache with stage.teacher_memory={cfg.stage.teacher_memory} and stage.teacher_logits="
            f"{cfg.stage.teacher_logits}: what the teacher answers would depend on the student. Use own for both."
        )
    follows = prompts.corrections > 0 and prompts.max_corrected_frames > 0 and prompts.point_prob > 0
    if follows and prompts.ground_truth_prob < 1 and any(phase.frames > 1 and phase.distil for phase in cfg.stage.phases):
        raise ValueError(
            "teacher_cache in stage=video: correction clicks fall on the student's mistakes, so no answer would be asked "
            "for twice. Set stage.prompts.corrections=0, stage.prompts.point_prob=0 (masks), or "
            "stage.prompts.ground_truth_prob=1 (clicks inside the truth)."
        )


def _check_memory_options(cfg: TrainConfig) -> None:
    for key, value in (("object_chunk", cfg.object_chunk), ("encoder_chunk", cfg.encoder_chunk)):
        if value < 0:
            raise ValueError(f"{key} is {value}; give a number at a time, or 0 for all at once.")
    if unknown := [verb for verb in cfg.recompute if verb not in VERBS]:
        raise ValueError(f"recompute names {', '.join(unknown)}; choose from {', '.join(VERBS)}.")
    if not 0 <= cfg.stage.ema < 1:
        raise ValueError(
            f"stage.ema is {cfg.stage.ema}; it is the share of the average that stays, below 1 (0: no average)."
        )
    started = os.environ.get("WORLD_SIZE")
    if started is not None and int(started) != ranks(cfg):
        raise ValueError(
            f"{started} processes were started (WORLD_SIZE), but trainer.devices x trainer.num_nodes is {ranks(cfg)}; "
            "make them equal."
        )
