"""A user's prompts for an object on a frame: checked against the video, then put in the model's coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.tracking.frame_tracker import FrameTracker
from edgetam_pl.types import BACKGROUND, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, Prompts


@dataclass(frozen=True)
class UserPrompts:
    """All prompts for one object on one frame, in pixels of the video."""

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Tensor | None = None  # (H, W) bool

    def then(self, new: UserPrompts) -> UserPrompts:
        """Both; a mask and points replace one another, a box replaces a box."""
        if new.mask is not None or self.mask is not None:
            return new
        return UserPrompts(self.points + new.points, self.labels + new.labels, new.box or self.box)

    def for_model(self, tracker: FrameTracker, *, previous: Tensor | None, clamp: float = inf) -> Prompts:
        """For one object, in pixels of the model's input. The corners of the box come first (SAM 2 release).

        Args:
            previous: (1, 1, S/4, S/4) logits that the points correct.
            clamp: bound of these logits.
        """
        if self.mask is not None:
            return tracker.mask_prompt(self.mask[None])
        corners = () if self.box is None else (self.box[:2], self.box[2:])
        labels = (*((BOX_TOP_LEFT, BOX_BOTTOM_RIGHT) if corners else ()), *self.labels)
        prompts = tracker.point_prompt(torch.tensor([(*corners, *self.points)], dtype=torch.float32), torch.tensor([labels]))
        return prompts if previous is None else prompts._replace(previous=previous.clamp(-clamp, clamp))


def parse_prompts(
    points: Sequence[Sequence[float]],
    labels: Sequence[int] | None,
    box: Sequence[float] | None,
    mask: np.ndarray | Tensor | None,
    *,
    size: tuple[int, int],
) -> UserPrompts:
    """The prompts for a frame of `size` (height, width).

    Raises:
        ValueError: they cannot be meant; the message says what was given, what is expected and what to do.
    """
    if mask is not None:
        if len(points) or box is not None:
            raise ValueError("A mask came together with points or a box; a mask is the answer itself, so give it alone.")
        return UserPrompts(mask=_mask(mask, size))
    if not len(points) and box is None:
        raise ValueError("No prompt was given: give points, a box or a mask.")
    if labels is None:
        labels = [FOREGROUND] * len(points)
    if len(labels) != len(points):
        raise ValueError(f"{len(points)} points came with {len(labels)} labels; give one label a point.")
    for label in labels:
        if label not in (FOREGROUND, BACKGROUND):
            raise ValueError(f"A label is {label!r}; use 1 for a point on the object, 0 for a point off it.")
    return UserPrompts(
        tuple(_point(point, size) for point in points),
        tuple(int(label) for label in labels),
        None if box is None else _box(box, size),
    )


def _point(point: Sequence[float], size: tuple[int, int]) -> tuple[float, float]:
    height, width = size
    if len(point) != 2:
        raise ValueError(f"A point is {tuple(point)}; expected (x, y).")
    x, y = float(point[0]), float(point[1])
    if not (0 <= x < width and 0 <= y < height):  # also refuses NaN
        raise ValueError(
            f"The point ({x:g}, {y:g}) lies outside the {width} x {height} frame; give x below {width} and y below {height}."
        )
    return x, y


def _box(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = size
    if len(box) != 4:
        raise ValueError(f"A box is {tuple(box)}; expected (x0, y0, x1, y1).")
    x0, y0, x1, y1 = (float(value) for value in box)
    given = f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{given} has no area; give (x0, y0, x1, y1) with x0 < x1 and y0 < y1.")
    if min(x0, y0) < 0 or x1 > width or y1 > height:
        raise ValueError(f"{given} leaves the {width} x {height} frame; cut it to the frame.")
    return x0, y0, x1, y1


def _mask(mask: np.ndarray | Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) bool, a copy."""
    tensor = torch.as_tensor(mask)
    if tuple(tensor.shape) != size:
        raise ValueError(
            f"The mask is {tuple(tensor.shape)}; the video's frames are {size} (height, width). Give a mask of that size."
        )
    if tensor.dtype != torch.bool and not bool(((tensor == 0) | (tensor == 1)).all()):
        raise ValueError("The mask has values other than 0 and 1; give one object's mask, for example `labels == 3`.")
    return tensor > 0
