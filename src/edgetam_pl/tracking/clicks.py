"""Points and boxes from masks and from errors (SAM 2 release, training and evaluation samplers). Coordinates are pixels
(x, y) of the S x S input; all objects at once, without host synchronisation except for `centre_click`."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from edgetam_pl.types import BACKGROUND, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, Prompts


class Among(NamedTuple):
    """Some objects of a clip, when the others are taken elsewhere. Numbers are drawn for all `total` of them, so that an
    object gets the same clicks in whatever company."""

    rows: slice
    total: int


def uniform_click(truth: Tensor, predicted: Tensor, *, generator: torch.Generator, among: Among | None = None) -> Prompts:
    """One click per object, uniform over all wrong pixels: foreground where the object was missed, background elsewhere.

    A first click is the correction of an empty prediction. Where nothing is wrong the click is a uniform background pixel;
    where the object also fills the image it is the background point (0, 0). `truth` and `predicted` are (O, S, S) bool.
    """
    wrong = truth ^ predicted  # (O, S, S)
    perfect = ~wrong.flatten(1).any(dim=1)  # (O,)
    allowed = torch.where(perfect[:, None, None], ~truth, wrong)  # (O, S, S)
    among = among or Among(slice(None), len(truth))
    y, x = _uniform_pixel(allowed, generator, among)  # (O,), (O,)
    rows = torch.arange(len(truth), device=truth.device)
    missed = truth[rows, y, x] & ~perfect  # (O,); a perfect, image-filling object gets a background point
    return _as_prompts(x, y, missed)


def centre_click(truth: Tensor, predicted: Tensor) -> Prompts:
    """One click per object, in the middle of the larger error: the pixel farthest from the border of the missed or of the
    wrongly included region, whichever reaches deeper; ties are negative. The image border is a border.

    `truth` and `predicted` are (O, S, S) bool; runs on the CPU, for evaluation. Nothing wrong: background point (0, 0).
    """
    truth_np, predicted_np = truth.cpu().numpy(), predicted.cpu().numpy()
    clicks = []
    for is_object, is_answer in zip(truth_np, predicted_np, strict=True):
        depth_missed, missed_at = _deepest(is_object & ~is_answer)
        depth_extra, extra_at = _deepest(is_answer & ~is_object)
        positive = depth_missed > depth_extra
        clicks.append((*(missed_at if positive else extra_at), positive))
    x, y, positive = torch.tensor(clicks, dtype=torch.int64, device=truth.device).reshape(len(clicks), 3).unbind(dim=1)
    return _as_prompts(x, y, positive.bool())


def tight_box(masks: Tensor) -> Prompts:
    """The corners of the tight box around each mask (O, S, S), inclusive pixel indices; see `noisy_box` for empty masks."""
    return _as_box(*_corners(masks))


def noisy_box(
    masks: Tensor,
    *,
    generator: torch.Generator,
    noise: float = 0.1,
    max_noise: float = 20.0,
    among: Among | None = None,
) -> Prompts:
    """`tight_box`, each coordinate moved by up to `noise` of the box's side and at most `max_noise` pixels.

    An empty mask (O, S, S) has the corners (S-1, S-1) and (0, 0), a box inside out, as in the SAM 2 release.
    """
    top_left, bottom_right = _corners(masks)  # (O, 2), (O, 2)
    reach = (noise * (bottom_right - top_left)).clamp(0, max_noise)  # (O, 2); 0 for empty masks
    rows, total = among or Among(slice(None), len(masks))
    draw = torch.rand(total, 2, 2, generator=generator, device=generator.device)[rows].to(masks.device) * 2 - 1  # (O, 2, 2)
    last = masks.shape[-1] - 1
    return _as_box((top_left + draw[:, 0] * reach).clamp(0, last), (bottom_right + draw[:, 1] * reach).clamp(0, last))


def _uniform_pixel(allowed: Tensor, generator: torch.Generator, among: Among) -> tuple[Tensor, Tensor]:
    """(y, x), each (O,), of a uniformly drawn pixel of each mask (O, S, S); (0, 0) of an empty mask.

    The n-th allowed pixel is found by its row, then its column: one number is drawn per object, on the generator's own
    device, so a clip can be replayed on another machine. (One noise value per pixel would do the same at S*S the cost.)
    """
    # draw which of the allowed pixels, counted row by row
    per_row = allowed.sum(dim=2)  # (O, S)
    up_to_row = per_row.cumsum(dim=1)  # (O, S)
    count = up_to_row[:, -1]  # (O,)
    draw = torch.randint(2**62, (among.total,), generator=generator, device=generator.device)[among.rows]  # (O,)
    draw = draw.to(allowed.device, non_blocking=True)
    nth = draw % count.clamp(min=1)  # (O,); the bias of the remainder is below 1e-12
    # its row, then its column
    y = (up_to_row <= nth[:, None]).sum(dim=1)  # (O,)
    y = torch.where(count > 0, y, 0)
    rows = torch.arange(len(allowed), device=allowed.device)
    nth_in_row = nth - (up_to_row - per_row)[rows, y]  # (O,)
    x = (allowed[rows, y].cumsum(dim=1) <= nth_in_row[:, None]).sum(dim=1)  # (O,)
    return y, torch.where(count > 0, x, 0)


def _deepest(region: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Depth and (x, y) of the pixel of `region` (S, S) that lies farthest from its border; depth 0 at (0, 0) if empty."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return 0.0, (0, 0)
    # Outside its box the region has no pixel, so the box with a frame of zeros has the same distances.
    box = np.pad(region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8), 1)
    depth = cv2.distanceTransform(box, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(depth[y, x]), (int(x + columns[0]), int(y + rows[0]))


def _corners(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Top left and bottom right (x, y), each (O, 2) float, of each mask (O, H, W)."""
    low, high = [], []
    for line in (masks.any(dim=1), masks.any(dim=2)):  # columns (O, W), rows (O, H)
        place, last = torch.arange(line.shape[1], device=masks.device), line.shape[1] - 1
        low.append(torch.where(line, place, last).amin(dim=1))
        high.append(torch.where(line, place, 0).amax(dim=1))
    return torch.stack(low, dim=1).float(), torch.stack(high, dim=1).float()


def _as_prompts(x: Tensor, y: Tensor, foreground: Tensor) -> Prompts:
    points = torch.stack([x, y], dim=-1)[:, None].float()  # (O,), (O,) -> (O, 1, 2)
    labels = torch.where(foreground, FOREGROUND, BACKGROUND)[:, None]  # (O, 1) int64
    return Prompts(points=points, labels=labels)


def _as_box(top_left: Tensor, bottom_right: Tensor) -> Prompts:
    points = torch.stack([top_left, bottom_right], dim=1)  # (O, 2), (O, 2) -> (O, 2, 2)
    labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=points.device).expand(len(points), 2)  # (O, 2)
    return Prompts(points=points, labels=labels)
