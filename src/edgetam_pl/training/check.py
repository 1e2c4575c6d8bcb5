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
from edgetam_pl.losses.objective import Objective
from edgetam_pl.training.optim import schedule_of
from edgetam_pl.training.step import STAGES
from edgetam_pl.training.trainer import trainer_arguments
from edgetam_pl.types import VERBS
from edgetam_pl.weights import PARTS

CHOICES = {
    "stage.name": STAGES,
    "stage.teacher_memory": ("own", "student"),
    "stage.teacher_logits": ("own", "student"),
    "load_parts": ("all", *PARTS),
    "logger.kind": ("none", "wandb", "csv", "tensorboard"),
    "launcher.kind": ("local", "slurm"),
}


def check(cfg: TrainConfig) -> None:
    """Refuse a configuration that cannot be trained, whatever the data.

    Raises:
        ValueError: naming keys, values and the cure.
    """
    for key, legal in CHOICES.items():
        if (value := attrgetter(key)(cfg)) not in legal:
            raise ValueError(f"{key} is {value!r}; use one of {', '.join(legal)}.")
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
    for key in ("weights", "trunk_weights", "teacher_weights"):
        path = getattr(cfg, key)
        if path is not None and not Path(path).is_file():
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
    if (cfg.teacher is None) != (cfg.teacher_weights is None):
        raise ValueError(
            "A teacher needs both model@teacher=NAME and teacher_weights=FILE; "
            f"given: {'no' if cfg.teacher is None else cfg.teacher.name} teacher and weights {cfg.teacher_weights}."
        )
    if cfg.teacher_cache and (cfg.teacher is None or cfg.stage.name != "image"):
        raise ValueError(
            f"teacher_cache={cfg.teacher_cache} keeps F16 of images for stage=image with a teacher; this is "
            f"stage={cfg.stage.name} with {'no teacher' if cfg.teacher is None else 'one'}. Leave it empty."
        )
    if cfg.teacher is None:
        return
    validate(cfg.teacher)
    ours, theirs = (cfg.model.dim, cfg.model.image_size), (cfg.teacher.dim, cfg.teacher.image_size)
    if ours != theirs:
        raise ValueError(
            f"The teacher's F16 has {theirs[0]} channels at {theirs[1]} px, the student's {ours[0]} at {ours[1]} px; "
            f"distillation compares them element by element, so set teacher.image_size={ours[1]} and equal dim."
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
