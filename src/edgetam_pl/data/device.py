"""Table 5's augmentation after the batch has left the worker: drawn by torch, as `augment.py` describes it.

Frames come at the input size already, so a warp interpolates a second time; everything else is as in `render.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.data import augment
from edgetam_pl.data.augment import AugmentParams, ColourStep
from edgetam_pl.types import VideoBatch


@dataclass(frozen=True)
class Unaugmented(VideoBatch):
    """A batch whose augmentation is known and not yet applied."""

    augmentations: tuple[AugmentParams, ...] = ()  # of each clip
    sizes: tuple[tuple[int, int], ...] = ()  # (H, W) of each clip before it was resized: warps turn about its centre there
    counts: tuple[int, ...] = ()  # objects of each clip


def augmented(batch: VideoBatch) -> VideoBatch:
    """The batch with its augmentation applied, on its device and without waiting for it; any other batch unchanged."""
    if not isinstance(batch, Unaugmented):
        return batch
    frames, masks, first = [], [], 0
    for clip, params, size, count in zip(batch.frames, batch.augmentations, batch.sizes, batch.counts):
        clip, own = _warped(clip, batch.masks[:, first : first + count], params, size)
        if params.colours:
            clip = torch.stack([_recoloured(frame, steps) for frame, steps in zip(clip, params.colours)])
        frames.append(clip.round().clamp(0, 255).to(torch.uint8))
        masks.append(own)
        first += count
    return VideoBatch(torch.stack(frames), torch.cat(masks, dim=1), batch.video_of, batch.keys, batch.source)


def _warped(frames: Tensor, masks: Tensor, params: AugmentParams, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Frames (T, 3, S, S) and masks (T, O, S, S) flipped and warped; frames may come back as floats."""
    if not params.warped:
        return (frames.flip(-1), masks.flip(-1)) if params.flip else (frames, masks)
    side = frames.shape[-1]
    # the release gives up a warp that empties a mask on the first frame; both are at hand, so that nothing waits for a GPU
    warped, upright = (_positions(one, size, side, frames.device) for one in (params, params.without_warp()))
    emptied = ~_nearest(masks[0], warped).flatten(1).any(1).all()
    where = torch.where(emptied, upright, warped)
    # zeros around the difference to FILL are FILL around the picture
    fill = torch.tensor(augment.FILL, device=frames.device)[:, None, None]
    grid = ((2 * where + 1) / side - 1).expand(len(frames), -1, -1, -1)
    drawn = torch.nn.functional.grid_sample(frames - fill, grid, padding_mode="zeros", align_corners=False) + fill
    return drawn, _nearest(masks, where)


def _positions(params: AugmentParams, size: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """Where each target pixel comes from in the resized picture: (S, S, 2) indices x, y."""
    inverse = params.inverse(size, (side, side), stored=(side, side))
    matrix = torch.from_numpy(inverse).to(device, torch.float32)
    index = torch.arange(side, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(index, index, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) @ matrix.T


def _nearest(masks: Tensor, where: Tensor) -> Tensor:
    """Masks (..., S, S) at the nearest pixels of `where` (S, S, 2); False outside."""
    side = masks.shape[-1]
    index = (where + 0.5).floor().long()
    inside = ((index >= 0) & (index < side)).all(-1)
    x, y = index.clamp(0, side - 1).unbind(-1)
    return masks[..., y, x] & inside


def _recoloured(frame: Tensor, steps: tuple[ColourStep, ...]) -> Tensor:
    """Colour steps on a frame (3, S, S), each rounded to whole levels as in a picture; float."""
    frame = frame.float().round().clamp(0, 255)
    grey = torch.tensor(augment.GREY, device=frame.device)
    for step in steps:
        linear = augment.linear(step)
        mean = torch.einsum("c,chw->hw", grey, frame).floor().mean()
        gain = torch.from_numpy(np.ascontiguousarray(linear.gain)).to(frame.device)
        frame = (torch.einsum("cd,dhw->chw", gain, frame) + linear.bias + linear.share * mean).round().clamp(0, 255)
    return frame
