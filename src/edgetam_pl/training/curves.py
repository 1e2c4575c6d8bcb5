"""Every logged value, to curves.jsonl and to the loggers, against the step of the whole run.

Lightning counts steps per fit, and a resumed run goes back to its last checkpoint. The x-axis here is the number of
optimiser steps over all phases; lines beyond the step a run resumes from are dropped, so the file never runs twice
over the same step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.track_batch import Track
from edgetam_pl.types import VideoBatch

STEP = "progress/step"
"""The x-axis."""


class Curves(L.Callback):
    """Writes a line every `every` optimiser steps: losses, speed, learning rates, agreement with the teacher."""

    def __init__(self, path: Path, *, every: int) -> None:
        self.path, self.every, self.written = path, every, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Distillation)
        if not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_lines(self.path) if line[STEP] <= pl_module.steps_done]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(self.path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric(STEP)
                logger.experiment.define_metric("*", step_metric=STEP)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: VideoBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distillation)
        step = pl_module.steps_done
        if not trainer.is_global_zero or step == self.written or step % self.every:
            return
        self.written = step
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        values |= {f"lr/{name}": rate for name, rate in learning_rates(trainer).items()}
        if pl_module.last_track is not None:
            _, student, teacher = pl_module.last_track
            values |= agreement(student, teacher)
        write_line(self.path, {STEP: step, "progress/phase": pl_module.phase_index, **values})
        for logger in trainer.loggers:
            logger.log_metrics({STEP: float(step), **values})


def learning_rates(trainer: L.Trainer) -> dict[str, float]:
    """Highest and lowest learning rate over the parameter groups."""
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {"max": max(rates), "min": min(rates)}


@torch.no_grad()
def agreement(student: Track, teacher: Track | None) -> dict[str, float]:
    """Mean squared error and cosine between student and teacher, per level (F4, F8, F16) and for F_M where recalled."""
    if teacher is None:
        return {}
    pairs = {
        name: [(ours, theirs)]
        for name, ours, theirs in zip(("f4", "f8", "f16"), student.features, teacher.features)
        if ours is not None and theirs is not None and ours.shape == theirs.shape
    }
    recalled = [
        (ours.f_m, theirs.f_m) for ours, theirs in zip(student.outputs, teacher.outputs) if ours.recalled and theirs.recalled
    ]
    if recalled:
        pairs["f_m"] = recalled
    values: dict[str, float] = {}
    for name, both in pairs.items():
        values[f"agree/{name}_mse"] = float(torch.stack([F.mse_loss(a.float(), b.float()) for a, b in both]).mean())
        values[f"agree/{name}_cosine"] = float(torch.stack([_cosine(a, b) for a, b in both]).mean())
    return values


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.cosine_similarity(ours.float(), theirs.float(), dim=1).mean()


def write_line(path: Path, values: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> list[dict[str, float]]:
    """The lines of a curves file; an unfinished last line (the run was killed while writing) is left out."""
    if not path.is_file():
        return []
    lines: list[dict[str, float]] = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
