"""Pictures to the logger and to disk: frame, truth, student, teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgetam_pl.io.overlay import paint
from edgetam_pl.training.track_batch import TrackedClip
from edgetam_pl.types import VideoBatch

if TYPE_CHECKING:
    from edgetam_pl.training.distillation import Distillation


TITLES = 26
"""Height of the names of the columns, in pixels."""


class MaskPanels(L.Callback):
    """Every so many steps: the first clip of the batch as rows of frame, truth, student and teacher."""

    def __init__(self, folder: Path, *, every: int, frames: int = 4, side: int = 320) -> None:
        self.folder, self.every, self.frames, self.side = folder, every, frames, side

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: Distillation, outputs: Any, batch: VideoBatch, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero or pl_module.steps_done % self.every or pl_module.last_step is None:
            return
        panel = draw(*pl_module.last_step, frames=self.frames, side=self.side)
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(panel).save(self.folder / f"step{pl_module.steps_done:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("train/masks", [panel], caption=["first clip of the batch"])


def draw(
    batch: VideoBatch, student: TrackedClip, teacher: TrackedClip | None, *, frames: int, side: int
) -> NDArray[np.uint8]:
    """The panel (TITLES + rows*side, columns*side, 3) of the batch's first clip: one row a frame under the columns' names.
    The teacher has a column where there is one."""
    objects = (batch.video_of == 0).nonzero()[:, 0]
    rows = []
    for t in np.unique(np.linspace(0, batch.num_frames - 1, frames).round().astype(int)):
        pixels = _resized(batch.frames[0, t].float()[None], side)[0].clamp(0, 255).byte()
        frame = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
        truth = _resized(batch.masks[t, objects].float()[:, None], side)[:, 0] > 0.5
        cells = [frame, paint(frame, truth.cpu().numpy())]
        for track in (student, *([] if teacher is None else [teacher])):
            if not track.outputs or not track.outputs[t].rounds:  # from a cache: features alone
                cells.append(np.full_like(frame, 32))
                continue
            logits = _resized(track.outputs[t].final.best[objects].detach().float(), side)[:, 0]
            cells.append(paint(frame, (logits > 0).cpu().numpy()))
        rows.append(np.concatenate(cells, axis=1))
    names = ("frame", "truth", "student", *([] if teacher is None else ["teacher"]))
    return np.concatenate([_titles(names, side), *rows], axis=0)


def _titles(names: Sequence[str], side: int) -> NDArray[np.uint8]:
    """A strip (TITLES, len(names)*side, 3) with a name over each column."""
    strip = np.zeros((TITLES, len(names) * side, 3), np.uint8)
    for column, name in enumerate(names):
        cv2.putText(
            strip, name, (column * side + 6, TITLES - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA
        )
    return strip


def _resized(images: Tensor, side: int) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
