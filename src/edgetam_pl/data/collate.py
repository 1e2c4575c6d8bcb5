"""Clips to one batch in one piece of memory, eight masks to a byte, as it travels from a data worker to the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.data.augment import AugmentParams
from edgetam_pl.data.device import Unaugmented
from edgetam_pl.data.render import PLANES, Clip, Renderer, planes_of
from edgetam_pl.io.errors import BadSampleError
from edgetam_pl.types import VideoBatch


@dataclass(frozen=True)
class PackedBatch:
    """A VideoBatch on its way from a worker. Its memory may be used again as soon as it is unpacked: fresh shared memory for
    every batch would cost as much as decoding it."""

    frames: Tensor  # (B, T, 3, S, S) uint8
    planes: Tensor  # (T, P, S, S) uint8
    counts: tuple[int, ...]  # objects of each clip; a clip begins with a plane of its own
    keys: tuple[str, ...]
    source: str
    in_slot: bool = False  # frames and planes lie in memory that will be written again
    augmentations: tuple[AugmentParams, ...] = ()  # of each clip, where the device applies them
    sizes: tuple[tuple[int, int], ...] = ()  # (H, W) of each clip as it is stored
    views: tuple[Tensor, ...] = ()  # the frames once more at other sides

    def pin_memory(self) -> PackedBatch:
        return replace(self, frames=self.frames.pin_memory(), views=tuple(view.pin_memory() for view in self.views))

    def unpack(self) -> VideoBatch:
        """The batch with one bool mask an object."""
        num_frames, _, height, width = self.planes.shape
        pinned = self.frames.is_pinned()
        masks = torch.empty(num_frames, sum(self.counts), height, width, dtype=torch.bool, pin_memory=pinned)
        planes, out = self.planes.numpy(), masks.numpy()
        bits = np.empty((height, width), np.uint8)
        places, first = [], 0  # (plane, bit) of every object
        for count in self.counts:
            places += [(first + o // PLANES, 1 << o % PLANES) for o in range(count)]
            first += planes_of(count)
        for t in range(num_frames):
            for o, (plane, bit) in enumerate(places):
                np.not_equal(np.bitwise_and(planes[t, plane], bit, out=bits), 0, out=out[t, o])
        video_of = torch.repeat_interleave(torch.tensor(self.counts))
        frames, *views = (drawn.clone() if self.in_slot and not pinned else drawn for drawn in (self.frames, *self.views))
        batch = frames, masks, video_of, self.keys, self.source, tuple(views)
        return Unaugmented(*batch, self.augmentations, self.sizes, self.counts) if self.augmentations else VideoBatch(*batch)


class Slots:
    """Shared memory that is written in turn: what a data worker hands over lies in one of `count` slots.

    A worker may have `count` - 1 batches handed over and not unpacked when it begins another.
    """

    def __init__(self, count: int) -> None:
        self.slots: list[Tensor | None] = [None] * count
        self.current = 0

    def advance(self) -> None:
        """Begin the next batch: what was written last is handed over, the slot written longest ago comes next."""
        self.current = (self.current + 1) % len(self.slots)

    def take(self, size: int) -> Tensor:
        """`size` bytes (size,) uint8 of the current slot: the same ones until `advance`, so that a batch that fails and is
        made again does not take the place of one that is still being read."""
        slot = self.slots[self.current]
        if slot is None or slot.numel() < size:
            slot = self.slots[self.current] = torch.zeros(size, dtype=torch.uint8).share_memory_()
        return slot[:size]


def collate(
    clips: Sequence[Clip],
    *,
    image_size: int,
    source: str,
    slots: Slots | None = None,
    antialias: bool = False,
    views: Sequence[int] = (),
) -> PackedBatch:
    """A batch of uint8 frames and masks at S x S, still packed; clips of one length.

    With `slots` it lies in one of these, otherwise in memory of its own. `views` are other sides at which the frames are
    drawn once more, from the same pictures and with the same augmentation.

    Raises:
        BadSampleError: an image or a mask of one of the clips cannot be decoded. `place` says which.
    """
    # one piece of memory: the frames of all clips, then the planes of their masks
    num_frames = len(clips[0].selection.frames)
    counts = tuple(len(clip.selection.objects) for clip in clips)
    pictures = len(clips), num_frames, 3
    shapes = [(*pictures, image_size, image_size), (num_frames, sum(map(planes_of, counts)), image_size, image_size)]
    shapes += [(*pictures, side, side) for side in views]
    sizes = [math.prod(shape) for shape in shapes]
    memory = torch.empty(sum(sizes), dtype=torch.uint8) if slots is None else slots.take(sum(sizes))
    frames, planes, *others = (part.view(shape) for part, shape in zip(memory.split(sizes), shapes))
    # every clip is drawn straight into its place
    renderer = _renderer(image_size, antialias)
    first = 0
    for b, clip in enumerate(clips):
        last = first + planes_of(counts[b])
        try:
            params = renderer.clip(clip, frames[b].numpy(), planes[:, first:last].numpy())
            for other in others:
                _renderer(other.shape[-1], antialias).frames(clip, params, other[b].numpy())
        except BadSampleError as error:
            raise BadSampleError(error.cause, error.message, place=b) from error
        first = last
    return PackedBatch(
        frames,
        planes,
        counts,
        keys=tuple(clip.selection.label(clip.header) for clip in clips),
        source=source,
        in_slot=slots is not None,
        augmentations=tuple(clip.augmentation for clip in clips if clip.on_device),
        sizes=tuple(clip.header.size for clip in clips),
        views=tuple(others),
    )


@lru_cache(maxsize=4)
def _renderer(side: int, antialias: bool) -> Renderer:
    """One a process and size: its buffers outlive the batch, so that their pages are not asked for again and again."""
    return Renderer(side, antialias=antialias)
