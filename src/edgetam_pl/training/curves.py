"""Every logged value, to curves.jsonl and to the loggers, against the step of the whole run.

Lightning counts steps per fit, and a resumed run goes back to its last checkpoint. The x-axis here is the number of
optimiser steps over all phases; lines beyond the step a run resumes from are dropped, so the file never runs twice
over the same step. Lightning's CSVLogger and LearningRateMonitor know neither: they count per fit, and append on resume.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.io.atomic import write_text
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.training.track_batch import TrackedClip
from edgetam_pl.types import VideoBatch

if TYPE_CHECKING:
    from edgetam_pl.training.distillation import Distillation

_LOG = logging.getLogger(__name__)

STEP = "progress/step"
"""The x-axis."""


class Curves(L.Callback):
    """Writes a line every `every` optimiser steps: losses, speed, learning rates, agreement with the teacher."""

    def __init__(self, path: Path, *, every: int) -> None:
        self.path, self.every, self.written = path, every, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        self.written = pl_module.steps_done  # batches of the step under way are no step yet
        if not trainer.is_global_zero:
            return
        keep_lines(self.path, pl_module.steps_done)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: Distillation, outputs: Any, batch: VideoBatch, batch_idx: int
    ) -> None:
        step = pl_module.steps_done
        if not trainer.is_global_zero or step == self.written or step % self.every:
            return
        self.written = step
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        values |= {"lr/max": max(rates), "lr/min": min(rates)}
        if pl_module.last_step is not None:
            values |= agreement(pl_module.last_step.student, pl_module.last_step.teacher, pl_module.last_match)
        write_line(self.path, {STEP: step, "progress/phase": pl_module.phase_index, **values})
        for logger in trainer.loggers:
            logger.log_metrics({STEP: float(step), **values})


@torch.no_grad()
def agreement(student: TrackedClip, teacher: TrackedClip | None, match: FeatureMatch | None = None) -> dict[str, float]:
    """Mean squared error and cosine between student and teacher, per level (F4, F8, F16) and for F_M where recalled: F16 and
    F_M as the loss compares them (`match`), F4 and F8 where their shapes are equal."""
    if teacher is None:
        return {}
    match = match or FeatureMatch()
    pairs = {
        name: [(ours, theirs)]
        for name, ours, theirs in zip(("f4", "f8"), student.features, teacher.features)
        if ours is not None and theirs is not None and ours.shape == theirs.shape
    }
    pairs["f16"] = [match(student.f16, teacher.f16, "f16")]
    recalled = [
        match(ours.f_m, theirs.f_m, "f_m")
        for ours, theirs in zip(student.outputs, teacher.outputs)
        if ours.recalled and theirs.recalled
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
    """Append a line; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def keep_lines(path: Path, step: int) -> None:
    """Drop the lines beyond `step`, an unfinished last one, and those that say nothing of a step."""
    if path.is_file():
        lines = [line for line in read_lines(path) if isinstance(line.get(STEP), int | float)]
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines if line[STEP] <= step))


def read_lines(path: Path) -> list[dict[str, float]]:
    """The lines of a curves file. One that cannot be read is named and left out, alone; an unfinished last one (a run writes
    it, or was killed while it did) is left out without a word."""
    if not path.is_file():
        return []
    lines: list[dict[str, float]] = []
    for number, text in enumerate(path.read_text(errors="replace").splitlines(keepends=True), start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        elif text.endswith("\n"):
            _LOG.warning("%s: line %d cannot be read and is left out: %.40r", path, number, text.strip())
    return lines
