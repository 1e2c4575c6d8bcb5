"""Evaluation during training: a few clips, first-frame masks, J&F, logged with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from edgetam_pl.config import ValidationConfig
from edgetam_pl.training.curves import STEP, write_line
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.wandb_runs import suppress_wandb_errors
from edgetam_pl.types import VideoBatch

WORST = 8
"""Clips in the table of the worst."""


class EvaluateDuringTraining(L.Callback):
    """Every `every` optimiser steps rank 0 tracks a few clips from their first mask; the others wait at the next step."""

    def __init__(self, validation: ValidationConfig, folder: Path) -> None:
        self.validation, self.folder, self.last = validation, folder, -1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: VideoBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distillation)
        step = pl_module.steps_done
        if step == self.last or step % self.validation.every or not trainer.is_global_zero:
            return
        self.last = step
        from edgetam_pl.evaluation.vos import clips_of
        from edgetam_pl.training.worst_clips import look, table

        clips = clips_of(self.validation.root, size=batch.frames.shape[-1], limit=self.validation.clips)
        seen = look(pl_module.student, clips, device=pl_module.device)
        values = {f"val/{name}": value for name, value in seen.values.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_line(self.folder / "jf.jsonl", {STEP: step, **values})
        for logger in trainer.loggers:
            logger.log_metrics({STEP: float(step), **values})
            if isinstance(logger, WandbLogger) and seen.pictures:
                with suppress_wandb_errors("validation's pictures"):
                    captions = [f"{name}: frame, truth, prediction, error" for name in seen.pictures]
                    logger.log_image("val/masks", list(seen.pictures.values()), caption=captions)
                    logger.experiment.log({STEP: step, "val/worst clips": table(step, seen.worst[:WORST])})
