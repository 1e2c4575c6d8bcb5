"""The real clip that comes with the package: a chair that turns, of PUMaVOS (CC BY 4.0, shipped/example/ATTRIBUTION.md)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgetam_pl.io import shipped
from edgetam_pl.io.label_png import read_labels
from edgetam_pl.io.pictures import read_picture
from edgetam_pl.tracking.clicks import centre_click

CLIP = "chair"
FRAMES = shipped.EXAMPLE / "JPEGImages" / CLIP
"""Folder of the frames, as `open_video` and `edgetam track` take it; shipped/example is laid out like DAVIS."""


class ExampleClip(NamedTuple):
    """Frames and masks, as `toy_clip` gives them."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    masks: NDArray[np.bool_]
    """(T, 1, H, W)."""

    @property
    def click(self) -> tuple[float, float]:
        """(x, y) in pixels on frame 0, in the middle of the object."""
        first = torch.from_numpy(self.masks[0])
        points = centre_click(first, torch.zeros_like(first)).points
        assert points is not None
        x, y = points[0, 0].tolist()
        return x, y

    @property
    def folder(self) -> Path:
        """Where the frames lie."""
        return FRAMES


def example_clip() -> ExampleClip:
    """The clip: 60 frames of 200 x 300 pixels, one object.

    Raises:
        BadSampleError: a file of it cannot be read.
    """
    frames = np.stack([read_picture(path) for path in sorted(FRAMES.glob("*.jpg"))])
    annotations = sorted((shipped.EXAMPLE / "Annotations" / CLIP).glob("*.png"))
    masks = np.stack([read_labels(path) == 1 for path in annotations])
    return ExampleClip(frames, masks[:, None])
