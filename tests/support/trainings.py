"""Trainings of a toy model on a handful of generated clips."""

from __future__ import annotations

from pathlib import Path

import smallest

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training.curves import STEP, read_lines

SMALL = (*smallest.SMALL, "model.dropout=0.1")


def config(model: str, *words: str, stage: str = "toy_video") -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=[f"model={model}", f"stage={stage}", *SMALL, *words])[0]


def training(shards: Path, out: Path, *words: str, phases: str, stage: str = "toy_video") -> TrainConfig:
    return config(
        "toy",
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
        *words,
        stage=stage,
    )


def losses(out: Path) -> dict[int, float]:
    return {int(line[STEP]): line["train/total"] for line in read_lines(out / "curves.jsonl")}
