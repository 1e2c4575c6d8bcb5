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
    drawn, masks, first = [], [], 0
    for b, (params, size, count) in enumerate(zip(batch.augmentations, batch.sizes, batch.counts)):
        own = batch.masks[:, first : first + count]
        emptied = _emptied(own[0], params, size)
        clips = [_warped(frames[b], params, size, emptied) for frames in (batch.frames, *batch.views)]
        if params.colours:
            clips = [torch.stack([_recoloured(*one) for one in zip(clip, params.colours)]) for clip in clips]
        drawn.append([clip.round().clamp(0, 255).to(torch.uint8) for clip in clips])
        masks.append(_warped_masks(own, params, size, emptied))
        first += count
    frames, *views = (torch.stack(clips) for clips in zip(*drawn))
    return VideoBatch(frames, torch.cat(masks, dim=1), batch.video_of, batch.keys, batch.source, tuple(views))


def _emptied(masks: Tensor, params: AugmentParams, size: tuple[int, int]) -> Tensor | None:
    """Whether the warp empties one of the masks (O, S, S) of the first frame: the release then gives it up. A bool on the
    device, so that nothing waits for it; None without a warp."""
    if not params.warped:
        return None
    where = _positions(params, size, 1, masks.shape[-1], masks.device)
    return ~_nearest(masks[None], where)[0].flatten(1).any(1).all()


def _warped(frames: Tensor, params: AugmentParams, size: tuple[int, int], emptied: Tensor | None) -> Tensor:
    """Frames (T, 3, S, S) flipped and warped; they may come back as floats."""
    if emptied is None:
        return frames.flip(-1) if params.flip else frames
    side = frames.shape[-1]
    where = _kept_positions(params, size, len(frames), side, emptied)
    # zeros around the difference to FILL are FILL around the picture
    fill = torch.tensor(augment.FILL, device=frames.device)[:, None, None]
    grid = (2 * where + 1) / side - 1
    return torch.nn.functional.grid_sample(frames - fill, grid, padding_mode="zeros", align_corners=False) + fill


def _warped_masks(masks: Tensor, params: AugmentParams, size: tuple[int, int], emptied: Tensor | None) -> Tensor:
    """Masks (T, O, S, S) flipped and warped."""
    if emptied is None:
        return masks.flip(-1) if params.flip else masks
    return _nearest(masks, _kept_positions(params, size, len(masks), masks.shape[-1], emptied))


def _kept_positions(params: AugmentParams, size: tuple[int, int], frames: int, side: int, emptied: Tensor) -> Tensor:
    """`_positions` of the warp, or where it was given up, without it."""
    warped, upright = (_positions(one, size, frames, side, emptied.device) for one in (params, params.without_warp()))
    return torch.where(emptied, upright, warped)


def _positions(params: AugmentParams, size: tuple[int, int], frames: int, side: int, device: torch.device) -> Tensor:
    """Where each target pixel of the first frames comes from in the resized picture: (T, S, S, 2) indices x, y."""
    inverse = np.stack([params.inverse(size, (side, side), frame=t, stored=(side, side)) for t in range(frames)])
    matrix = torch.from_numpy(inverse).to(device, torch.float32)
    index = torch.arange(side, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(index, index, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) @ matrix[:, None].mT


def _nearest(masks: Tensor, where: Tensor) -> Tensor:
    """Masks (T, O, S, S) at the nearest pixels of `where` (T, S, S, 2); False outside."""
    side = masks.shape[-1]
    index = (where + 0.5).floor().long()
    inside = ((index >= 0) & (index < side)).all(-1)
    x, y = index.clamp(0, side - 1).unbind(-1)
    return torch.stack([mask[:, y[t], x[t]] for t, mask in enumerate(masks)]) & inside[:, None]


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
