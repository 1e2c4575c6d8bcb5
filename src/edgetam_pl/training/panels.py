"""Pictures to the logger and to disk: frame, truth, student, teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from edgetam_pl.io.overlay import paint
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.track_batch import Track
from edgetam_pl.types import VideoBatch


class MaskPanels(L.Callback):
    """Every so many steps: the first clip of the batch as rows of frame, truth, student and teacher."""

    def __init__(self, folder: Path, *, every: int, frames: int = 4, side: int = 160) -> None:
        self.folder, self.every, self.frames, self.side = folder, every, frames, side

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: VideoBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Distillation)
        if not trainer.is_global_zero or trainer.global_step % self.every or pl_module.last_track is None:
            return
        panel = draw(*pl_module.last_track, frames=self.frames, side=self.side)
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(panel).save(self.folder / f"step{pl_module.steps_done:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("train/masks", [panel], caption=["frame, truth, student, teacher"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Distillation)
        pl_module.last_track = None


def draw(batch: VideoBatch, student: Track, teacher: Track | None, *, frames: int, side: int) -> np.ndarray:
    """The panel (rows*side, columns*side, 3) uint8 of the batch's first clip; one row per frame."""
    objects = (batch.video_of == 0).nonzero()[:, 0].cpu()
    rows = []
    for t in np.unique(np.linspace(0, batch.num_frames - 1, frames).round().astype(int)):
        frame = _resized(batch.frames[0, t].float()[None], side)[0].permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()
        truth = _resized(batch.masks[t, objects].float()[:, None], side)[:, 0] > 0.5
        cells = [frame, paint(frame, truth.cpu().numpy())]
        for track in (student, teacher):
            if track is None or not track.outputs:
                cells.append(np.full_like(frame, 32))
                continue
            logits = _resized(track.outputs[t].final.best[objects.to(track.f16.device)].detach().float(), side)[:, 0]
            cells.append(paint(frame, (logits > 0).cpu().numpy()))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows, axis=0)


def _resized(images: Tensor, side: int) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
