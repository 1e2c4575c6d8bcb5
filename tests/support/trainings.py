"""Trainings of a toy model on a handful of generated clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import smallest

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training.curves import STEP, read_lines

SMALL = (*smallest.SMALL, "model.dropout=0.1")


def config(model: str, *words: str, stage: str = "toy_video") -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=[f"model={model}", f"stage={stage}", *SMALL, *words])[0]


def words_of(shards: Path, out: Path, phases: str) -> list[str]:
    """What `training` says on the command line, but for model and stage."""
    return [
        "data=toy",
        f"data.sources.0.shards={shards / 'video'}",
        f"data.sources.1.shards={shards / 'image'}",
        "data.shuffle=4",
        f"out={out}",
        "stage.optim.warmup=0",
        "stage.optim.cooldown=0",
        f"stage.phases=[{phases}]",
        "stage.prompts.point_prob=0.5",
        "logger=none",
        "logger.log_every=1",
        "logger.panels_every=0",
        "logger.page=false",
    ]


def training(shards: Path, out: Path, *words: str, phases: str, stage: str = "toy_video") -> TrainConfig:
    return config("toy", *words_of(shards, out, phases), *words, stage=stage)


def losses(out: Path) -> dict[int, float]:
    return {int(line[STEP]): line["train/total"] for line in read_lines(out / "curves.jsonl")}


def changed_in(value: Any, **changed: Any) -> Any:
    """A copy with keys changed, also those of lists (phases__0__steps) and of mappings (trainer__devices)."""
    for key, new in changed.items():
        name, _, rest = key.partition("__")
        if isinstance(value, list):
            inner = value[int(name)]
        else:
            inner = value.get(name) if isinstance(value, dict) else getattr(value, name)
        new = changed_in(inner, **{rest: new}) if rest else new
        if isinstance(value, list):
            value = [*value[: int(name)], new, *value[int(name) + 1 :]]
        else:
            value = {**value, name: new} if isinstance(value, dict) else replace(value, **{name: new})
    return value
