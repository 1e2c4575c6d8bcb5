"""Chosen frames and objects to a VideoBatch: decode, recolour, warp once, straight into the batch.

Objects are packed eight to a byte, so one nearest warp moves all of a frame's masks, overlapping or not. Without a warp
and at a smaller size, run-length masks are resampled before they are decoded: the full mask never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edgetam_pl.data import augment, rle
from edgetam_pl.data import sample as schema
from edgetam_pl.data.augment import Look
from edgetam_pl.data.clips import Choice
from edgetam_pl.data.faults import BadSampleError
from edgetam_pl.data.sample import Header
from edgetam_pl.types import VideoBatch

_PLANES = 8
"""Objects that share a byte."""


@dataclass(frozen=True)
class Clip:
    """One clip, not decoded yet."""

    header: Header
    choice: Choice
    images: tuple[bytes, ...]  # JPEG of the chosen frames, in playing order
    look: Look


def collate(clips: Sequence[Clip], *, image_size: int, source: str) -> VideoBatch:
    """A batch of uint8 frames and bool masks at S x S; clips of one length.

    Raises:
        BadSampleError: an image or a mask of one of the clips cannot be decoded. `place` says which.
    """
    num_frames = len(clips[0].choice.frames)
    video_of = [b for b, clip in enumerate(clips) for _ in clip.choice.objects]
    frames = torch.empty(len(clips), num_frames, 3, image_size, image_size, dtype=torch.uint8)
    masks = torch.empty(num_frames, len(video_of), image_size, image_size, dtype=torch.bool)
    draw = _Draw(image_size)
    first = 0
    for b, clip in enumerate(clips):
        last = first + len(clip.choice.objects)
        try:
            draw.clip(clip, frames[b].numpy(), masks[:, first:last].numpy())
        except BadSampleError as error:
            raise BadSampleError(error.cause, error.message, place=b) from error
        first = last
    labels = tuple(clip.choice.label(clip.header) for clip in clips)
    return VideoBatch(frames, masks, torch.tensor(video_of, dtype=torch.int64), labels, source)


class _Draw:
    """Draws clips at one size, with buffers that are used again from frame to frame."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.buffers: dict[str, NDArray[np.uint8]] = {}

    def clip(self, clip: Clip, frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
        """Fill frames (T, 3, S, S) and masks (T, O, S, S)."""
        runs = [
            [self._runs(clip, o, t) for o in clip.choice.objects] for t in clip.choice.frames
        ]  # [frame][object], parsed before anything is drawn
        look = clip.look
        if look.warped:
            self.masks(runs[0], clip.header, look, masks[0])
            if not masks[0].any(axis=(1, 2)).all():
                look = look.upright()  # the release gives up a warp that empties a mask on the first frame
        for t, image in enumerate(clip.images):
            self.frame(image, clip, t, look, frames[t])
            self.masks(runs[t], clip.header, look, masks[t])

    def _runs(self, clip: Clip, o: int, t: int) -> rle.Runs | None:
        counts = clip.header.masks[o][t]
        if counts is None:
            return None
        try:
            return rle.parse(counts, clip.header.size)
        except BadSampleError as error:
            where = f"{clip.header.key}: object {clip.header.objects[o]}, frame {clip.header.frames[t]}"
            raise BadSampleError(error.cause, f"{where}: {error.message}") from error

    def frame(self, image: bytes, clip: Clip, t: int, look: Look, out: NDArray[np.uint8]) -> None:
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

    def masks(self, runs: Sequence[rle.Runs | None], header: Header, look: Look, out: NDArray[np.bool_]) -> None:
        """Draw the masks of one frame into (O, S, S)."""
        (height, width), side = header.size, self.side
        sampled = not look.warped and height >= side and width >= side
        shape = (side, side) if sampled else (width, height)  # column-major, as the runs are
        for first in range(0, len(runs), _PLANES):
            canvas = self._buffer("canvas", shape)
            canvas.fill(0)
            for plane, track in enumerate(runs[first : first + _PLANES]):
                if track is not None:
                    rle.paint(rle.resample(track, header.size, (side, side)) if sampled else track, 1 << plane, canvas)
            packed: Any = self._buffer("packed", (side, side))
            if sampled:
                cv2.transpose(canvas, dst=packed)
                if look.flip:
                    packed = cv2.flip(packed, 1, dst=self._buffer("mirrored", (side, side)))
            else:
                matrix = look.inverse(header.size, (side, side))[::-1].copy()  # the canvas is turned over: y is its column
                flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
                cv2.warpAffine(canvas, matrix, (side, side), dst=packed, flags=flags, borderValue=0)
            for plane in range(min(_PLANES, len(runs) - first)):
                np.not_equal(packed & (1 << plane), 0, out=out[first + plane])

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
