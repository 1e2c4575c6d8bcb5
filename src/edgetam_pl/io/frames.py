"""A video as a session sees it: frames going in, masks coming out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Frames(Protocol):
    """A video: frames by number, read when asked for. `edgetam_pl.io.video` has files, folders and live streams."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    @property
    def count(self) -> int | None:
        """Number of frames; None when nobody knows (a live stream)."""
        ...

    def __getitem__(self, t: int) -> np.ndarray:
        """Frame t, (H, W, 3) uint8 RGB. EndOfVideo past the end; ValueError when it cannot be read."""
        ...


class EndOfVideo(IndexError):
    """A live stream has no such frame: it ended before."""


class FrameMasks(NamedTuple):
    """The answer for one frame, at the video's own size."""

    frame: int
    objects: tuple[int, ...]  # O object numbers
    logits: Tensor  # (O, H, W) float; above 0 is the object
    presence: Tensor  # (O,) logit; above 0 the object is visible
    iou: Tensor  # (O,) predicted IoU

    @property
    def masks(self) -> Tensor:
        """(O, H, W) bool."""
        return self.logits > 0

    def label_map(self) -> Tensor:
        """(H, W) int64: the object of each pixel, 0 for none; where masks overlap, the highest logit."""
        height, width = self.logits.shape[1:]
        if not self.objects:
            return torch.zeros(height, width, dtype=torch.int64)
        best, winner = self.logits.max(dim=0)
        numbers = torch.tensor(self.objects, device=winner.device)
        return torch.where(best > 0, numbers[winner], 0)
