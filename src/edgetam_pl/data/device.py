"""Table 5's augmentation after the batch has left the worker: the same looks, drawn by torch where the batch is.

Frames come at the input size already, so a warp interpolates a second time; everything else is as in `collate.py`.
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
    """A batch whose looks are known and not yet drawn."""

    looks: tuple[AugmentParams, ...] = ()  # of each clip
    sizes: tuple[tuple[int, int], ...] = ()  # (H, W) of each clip before it was resized: warps turn about its centre there
    counts: tuple[int, ...] = ()  # objects of each clip


def augmented(batch: VideoBatch) -> VideoBatch:
    """The batch with its looks drawn, on its device and without waiting for it; any other batch as it is."""
    if not isinstance(batch, Unaugmented):
        return batch
    frames, masks, first = [], [], 0
    for clip, look, size, count in zip(batch.frames, batch.looks, batch.sizes, batch.counts):
        clip, own = _warped(clip, batch.masks[:, first : first + count], look, size)
        if look.colours:
            clip = torch.stack([_recoloured(frame, steps) for frame, steps in zip(clip, look.colours)])
        frames.append(clip.round().clamp(0, 255).to(torch.uint8))
        masks.append(own)
        first += count
    return VideoBatch(torch.stack(frames), torch.cat(masks, dim=1), batch.video_of, batch.keys, batch.source)


def _warped(frames: Tensor, masks: Tensor, look: AugmentParams, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Frames (T, 3, S, S) and masks (T, O, S, S) flipped and turned; frames may come back as floats."""
    if not look.warped:
        return (frames.flip(-1), masks.flip(-1)) if look.flip else (frames, masks)
    side = frames.shape[-1]
    turned, upright = (_positions(one, size, side, frames.device) for one in (look, look.upright()))
    emptied = ~_nearest(masks[0], turned).flatten(1).any(1).all()
    where = torch.where(emptied, upright, turned)  # the release gives up a warp that empties a mask on the first frame
    fill = torch.tensor(augment.FILL, device=frames.device)[:, None, None]
    grid = ((2 * where + 1) / side - 1).expand(len(frames), -1, -1, -1)
    drawn = torch.nn.functional.grid_sample(frames - fill, grid, padding_mode="zeros", align_corners=False) + fill
    return drawn, _nearest(masks, where)


def _positions(look: AugmentParams, size: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """Where each target pixel comes from in the resized picture: (S, S, 2) indices x, y. The angle is that of the picture
    before it was resized, so the way leads through its own pixels."""
    through = look.inverse(size, (side, side))
    scale = np.array([side / size[1], side / size[0]])
    matrix = torch.from_numpy(through * scale[:, None]).to(device, torch.float32)
    offset = torch.from_numpy((scale - 1) / 2).to(device, torch.float32)
    index = torch.arange(side, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(index, index, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) @ matrix.T + offset


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
        made = augment.linear(step)
        mean = torch.einsum("c,chw->hw", grey, frame).floor().mean()
        gain = torch.from_numpy(np.ascontiguousarray(made.gain)).to(frame.device)
        frame = (torch.einsum("cd,dhw->chw", gain, frame) + made.bias + made.share * mean).round().clamp(0, 255)
    return frame
