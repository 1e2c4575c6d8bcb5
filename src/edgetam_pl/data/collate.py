"""Chosen frames and objects to a VideoBatch: decode, recolour, warp once, straight into the batch.

Objects are packed eight to a byte, so one nearest warp moves all of a frame's masks, overlapping or not. Without a warp
and at a smaller size, run-length masks are resampled before they are decoded: the full mask never exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetam_pl.data import augment
from edgetam_pl.data import sample as schema
from edgetam_pl.data.augment import AugmentParams
from edgetam_pl.data.clips import ClipSelection
from edgetam_pl.data.device import Unaugmented
from edgetam_pl.data.errors import BadSampleError
from edgetam_pl.data.sample import Header
from edgetam_pl.io import rle
from edgetam_pl.types import VideoBatch

_PLANES = 8
"""Objects that share a byte."""


@dataclass(frozen=True)
class Clip:
    """One clip, not decoded yet."""

    header: Header
    choice: ClipSelection
    images: tuple[bytes, ...]  # JPEG of the chosen frames, in playing order
    look: AugmentParams
    shard: str = ""  # where it was read, for reports
    later: AugmentParams | None = None  # what the device draws instead, when it augments


@dataclass(frozen=True)
class PackedBatch:
    """A VideoBatch on its way from a worker: eight masks to a byte, in one piece of memory that may be used again as soon as
    it is unpacked. Fresh shared memory for every batch would cost as much as decoding it."""

    frames: Tensor  # (B, T, 3, S, S) uint8
    planes: Tensor  # (T, P, S, S) uint8
    counts: tuple[int, ...]  # objects of each clip; a clip begins with a plane of its own
    keys: tuple[str, ...]
    source: str
    lent: bool = False  # frames and planes lie in memory that will be written again
    looks: tuple[AugmentParams, ...] = ()  # of each clip, where they are not drawn yet
    sizes: tuple[tuple[int, int], ...] = ()  # (H, W) of each clip as it is stored

    def pin_memory(self) -> PackedBatch:
        return replace(self, frames=self.frames.pin_memory())

    def unpack(self) -> VideoBatch:
        """The batch with one bool mask an object."""
        num_frames, _, height, width = self.planes.shape
        pinned = self.frames.is_pinned()
        masks = torch.empty(num_frames, sum(self.counts), height, width, dtype=torch.bool, pin_memory=pinned)
        planes, out = self.planes.numpy(), masks.numpy()
        spare = np.empty((height, width), np.uint8)
        places = _places(self.counts)
        for t in range(num_frames):
            for o, (plane, bit) in enumerate(places):
                np.not_equal(np.bitwise_and(planes[t, plane], 1 << bit, out=spare), 0, out=out[t, o])
        video_of = [b for b, count in enumerate(self.counts) for _ in range(count)]
        frames = self.frames.clone() if self.lent and not pinned else self.frames
        batch = frames, masks, torch.tensor(video_of, dtype=torch.int64), self.keys, self.source
        return Unaugmented(*batch, self.looks, self.sizes, self.counts) if self.looks else VideoBatch(*batch)


def _places(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(plane, bit) of every object of a batch."""
    places, first = [], 0
    for count in counts:
        places += [(first + o // _PLANES, o % _PLANES) for o in range(count)]
        first += _planes(count)
    return places


def _planes(count: int) -> int:
    return -(-count // _PLANES)


class Slots:
    """Shared memory that is written in turn: what a data worker hands over lies in one of `count` slots.

    A worker may have `count` - 1 batches handed over and not unpacked when it begins another.
    """

    def __init__(self, count: int) -> None:
        self.slots: list[Tensor | None] = [None] * count
        self.turn = 0

    def turn_over(self) -> None:
        """Begin the next batch: what was written last is handed over, the slot written longest ago comes next."""
        self.turn = (self.turn + 1) % len(self.slots)

    def take(self, size: int) -> Tensor:
        """`size` bytes (size,) uint8 of the slot in turn: the same ones until `turn_over`, so that a batch that fails and is
        made again does not take the place of one that is still being read."""
        slot = self.slots[self.turn]
        if slot is None or slot.numel() < size:
            slot = self.slots[self.turn] = torch.zeros(size, dtype=torch.uint8).share_memory_()
        return slot[:size]


def collate(clips: Sequence[Clip], *, image_size: int, source: str, slots: Slots | None = None) -> PackedBatch:
    """A batch of uint8 frames and bool masks at S x S, still packed; clips of one length.

    With `slots` it lies in one of these, otherwise in memory of its own.

    Raises:
        BadSampleError: an image or a mask of one of the clips cannot be decoded. `place` says which.
    """
    num_frames = len(clips[0].choice.frames)
    counts = tuple(len(clip.choice.objects) for clip in clips)
    shapes = (len(clips), num_frames, 3), (num_frames, sum(map(_planes, counts)))
    sizes = [math.prod(shape) * image_size * image_size for shape in shapes]
    memory = torch.empty(sum(sizes), dtype=torch.uint8) if slots is None else slots.take(sum(sizes))
    frames, planes = (part.view(*shape, image_size, image_size) for part, shape in zip(memory.split(sizes), shapes))
    draw = _drawer(image_size)
    first = 0
    for b, clip in enumerate(clips):
        last = first + _planes(counts[b])
        try:
            draw.clip(clip, frames[b].numpy(), planes[:, first:last].numpy())
        except BadSampleError as error:
            raise BadSampleError(error.cause, error.message, place=b) from error
        first = last
    keys = tuple(clip.choice.label(clip.header) for clip in clips)
    looks = tuple(clip.later for clip in clips if clip.later is not None)
    sizes = tuple(clip.header.size for clip in clips)
    return PackedBatch(frames, planes, counts, keys, source, slots is not None, looks, sizes)


@lru_cache(maxsize=2)
def _drawer(side: int) -> _Draw:
    """One a process and size: its buffers outlive the batch, so that their pages are not asked for again and again."""
    return _Draw(side)


class _Draw:
    """Draws clips at one size, with buffers that are used again from frame to frame."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.buffers: dict[str, NDArray[np.uint8]] = {}

    def clip(self, clip: Clip, frames: NDArray[np.uint8], planes: NDArray[np.uint8]) -> None:
        """Fill frames (T, 3, S, S) and planes (T, P, S, S)."""
        # [frame][object], parsed before anything is drawn
        runs = [[self._runs(clip, o, t) for o in clip.choice.objects] for t in clip.choice.frames]
        look = clip.look
        if look.warped:
            self.masks(runs[0], clip.header, look, planes[0])
            if self._empties_one(planes[0], len(runs[0])):
                look = look.upright()  # the release gives up a warp that empties a mask on the first frame
        for t, image in enumerate(clip.images):
            self.frame(image, clip, t, look, frames[t])
            if t or not look.warped:
                self.masks(runs[t], clip.header, look, planes[t])

    @staticmethod
    def _empties_one(planes: NDArray[np.uint8], count: int) -> bool:
        seen = np.bitwise_or.reduce(planes.reshape(planes.shape[0], -1), axis=1)
        return any(not seen[o // _PLANES] >> o % _PLANES & 1 for o in range(count))

    def _runs(self, clip: Clip, o: int, t: int) -> rle.Runs | None:
        counts = clip.header.masks[o][t]
        if counts is None:
            return None
        try:
            return rle.parse(counts, clip.header.size)
        except BadSampleError as error:
            where = f"{clip.header.key}: object {clip.header.objects[o]}, frame {clip.header.frames[t]}"
            raise BadSampleError(error.cause, f"{where}: {error.message}") from error

    def frame(self, image: bytes, clip: Clip, t: int, look: AugmentParams, out: NDArray[np.uint8]) -> None:
        """Decode one frame and draw it into (3, S, S)."""
        picture = self._decoded(image, clip.header, clip.choice.frames[t])
        side = self.side
        fill = augment.FILL
        steps = look.colours[t] if look.colours else ()
        early = picture.shape[0] * picture.shape[1] <= side * side  # recolour where there are fewer pixels
        if steps and early:
            picture, fill = augment.recolour(picture, steps, self._buffer("spare", picture.shape))
        if look.warped:
            drawn: Any = cv2.warpAffine(
                cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA, dst=self._buffer("four", (*picture.shape[:2], 4))),
                look.inverse(picture.shape[:2], (side, side)),
                (side, side),
                dst=self._buffer("warped", (side, side, 4)),  # four channels are warped in half the time of three
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderValue=(*fill, 0),
            )
            drawn = cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB, dst=self._buffer("drawn", (side, side, 3)))
        else:
            if look.flip:
                picture = cv2.flip(picture, 1, dst=self._buffer("flipped", picture.shape))
            drawn: Any = picture
            if picture.shape[:2] != (side, side):
                drawn = cv2.resize(
                    picture,
                    (side, side),
                    dst=self._buffer("drawn", (side, side, 3)),
                    interpolation=cv2.INTER_AREA if min(picture.shape[:2]) > 1.5 * side else cv2.INTER_LINEAR,
                )
        if steps and not early:
            drawn, _ = augment.recolour(drawn, steps, self._buffer("late", drawn.shape))
        cv2.split(drawn, list(out))

    def masks(self, runs: Sequence[rle.Runs | None], header: Header, look: AugmentParams, out: NDArray[np.uint8]) -> None:
        """Draw the masks of one frame into planes (P, S, S), object o as bit o % 8 of plane o // 8."""
        (height, width), side = header.size, self.side
        sampled = not look.warped and height >= side and width >= side
        shape = (side, side) if sampled else (width, height)  # column-major, as the runs are
        for plane, packed in enumerate(out):
            canvas = self._buffer("canvas", shape)
            canvas.fill(0)
            for bit, track in enumerate(runs[plane * _PLANES : (plane + 1) * _PLANES]):
                if track is not None:
                    rle.paint(rle.resample(track, header.size, (side, side)) if sampled else track, 1 << bit, canvas)
            if look.warped:
                matrix = look.inverse(header.size, (side, side))[::-1].copy()  # the canvas is turned over: y is its column
                flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
                cv2.warpAffine(canvas, matrix, (side, side), dst=packed, flags=flags, borderValue=0)
                continue
            if not sampled:
                upright = cv2.transpose(canvas, dst=self._buffer("upright", (height, width)))
                if look.flip:
                    upright = cv2.flip(upright, 1, dst=self._buffer("mirrored", (height, width)))
                cv2.resize(upright, (side, side), dst=packed, interpolation=cv2.INTER_NEAREST_EXACT)
            elif look.flip:
                cv2.transpose(cv2.flip(canvas, 0, dst=self._buffer("mirrored", shape)), dst=packed)
            else:
                cv2.transpose(canvas, dst=packed)

    def _decoded(self, image: bytes, header: Header, frame: int) -> NDArray[np.uint8]:
        """The picture (H', W', 3): no smaller than S x S, but scaled down while decoding where that is possible."""
        schema.check_image(image, header, frame)
        try:
            return schema.decode_jpeg(image, least=self.side, buffer=self._buffer("decoded", (*header.size, 3)))
        except BadSampleError as error:
            raise BadSampleError(error.cause, f"{header.key}: frame {frame}: {error.message}") from error

    def _buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        buffer = self.buffers.get(name)
        if buffer is None or buffer.shape != shape:
            buffer = self.buffers[name] = np.empty(shape, np.uint8)
        return buffer
