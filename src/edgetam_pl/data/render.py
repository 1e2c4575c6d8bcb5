"""Draws the frames and masks of a clip in a data worker (OpenCV): decode, recolour, warp once, at the input size, uint8.

Objects are packed eight to a byte, so one nearest warp moves all of a frame's masks, overlapping or not. Without a warp
and at a smaller size, run-length masks are resampled before they are decoded: the full mask never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.data import augment
from edgetam_pl.data import sample as schema
from edgetam_pl.data.augment import UNCHANGED, AugmentParams, ColourStep
from edgetam_pl.data.clips import ClipSelection
from edgetam_pl.data.sample import Header
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError

PLANES = 8
"""Objects that share a byte."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """One clip, not decoded yet."""

    header: Header
    selection: ClipSelection
    images: tuple[bytes, ...]  # JPEG of the chosen frames, in playing order
    augmentation: AugmentParams = UNCHANGED
    on_device: bool = False  # the augmentation is applied by `device.py`, not here
    shard: str = ""  # where it was read, for reports


def planes_of(count: int) -> int:
    """Planes that so many objects need."""
    return -(-count // PLANES)


class Renderer:
    """Draws clips at one size, with buffers that are used again from frame to frame."""

    def __init__(self, side: int, *, antialias: bool = False) -> None:
        self.side, self.antialias = side, antialias
        self.buffers: dict[str, Pixels] = {}

    def clip(self, clip: Clip, frames: Pixels, planes: Pixels) -> AugmentParams:
        """Fill frames (T, 3, S, S) and planes (T, P, S, S). Returns what was done to the pixels.

        Raises:
            BadSampleError: an image or a mask cannot be decoded.
        """
        # [frame][object], parsed before anything is drawn
        runs = [[self._runs(clip, o, t) for o in clip.selection.objects] for t in clip.selection.frames]
        params = UNCHANGED if clip.on_device else clip.augmentation
        if params.warped:
            # the masks of frame 0 decide whether the warp stays, so they are drawn first
            self._masks(runs[0], clip.header, 0, params, planes[0])
            if _empties_one(planes[0], len(runs[0])):
                params = params.without_warp()
        self.frames(clip, params, frames)
        for t in range(len(clip.images)):
            if t or not params.warped:
                self._masks(runs[t], clip.header, t, params, planes[t])
        return params

    def frames(self, clip: Clip, params: AugmentParams, frames: Pixels) -> None:
        """Fill frames (T, 3, S, S) alone.

        Raises:
            BadSampleError: an image cannot be decoded.
        """
        for t, image in enumerate(clip.images):
            self._frame(image, clip, t, params, frames[t])

    def _runs(self, clip: Clip, o: int, t: int) -> rle.Runs | None:
        counts = clip.header.masks[o][t]
        if counts is None:
            return None
        try:
            return rle.parse(counts, clip.header.size)
        except BadSampleError as error:
            where = f"{clip.header.key}: object {clip.header.objects[o]}, frame {clip.header.frames[t]}"
            raise BadSampleError(error.cause, f"{where}: {error.message}") from error

    def _frame(self, image: bytes, clip: Clip, t: int, params: AugmentParams, out: Pixels) -> None:
        """Decode one frame and draw it into (3, S, S)."""
        picture = self._decoded(image, clip.header, clip.selection.frames[t])
        side = self.side
        size = picture.shape[:2]
        if self.antialias and max(size) > side:
            picture = np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR))
        fill = augment.FILL
        steps = params.colours[t] if params.colours else ()
        # colour commutes with the warp up to rounding: recolour where there are fewer pixels
        early = picture.shape[0] * picture.shape[1] <= side * side
        if steps and early:
            picture, fill = recolour(picture, steps, self._buffer("recoloured", picture.shape))
        if params.warped:
            # four channels are warped in half the time of three
            drawn: Any = cv2.warpAffine(
                cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA, dst=self._buffer("four", (*picture.shape[:2], 4))),
                params.inverse(size, (side, side), frame=t, stored=picture.shape[:2]),
                (side, side),
                dst=self._buffer("warped", (side, side, 4)),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderValue=(*fill, 0),
            )
            drawn = cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB, dst=self._buffer("drawn", (side, side, 3)))
        else:
            drawn: Any = picture
            if params.flip:
                drawn = cv2.flip(picture, 1, dst=self._buffer("flipped", picture.shape))
            if picture.shape[:2] != (side, side):
                # averaging where much is lost, since bilinear would skip pixels
                kind = cv2.INTER_AREA if min(picture.shape[:2]) > 1.5 * side else cv2.INTER_LINEAR
                drawn = cv2.resize(drawn, (side, side), dst=self._buffer("drawn", (side, side, 3)), interpolation=kind)
        if steps and not early:
            drawn, _ = recolour(drawn, steps, self._buffer("late", drawn.shape))
        cv2.split(drawn, list(out))  # (S, S, 3) -> (3, S, S)

    def _masks(self, runs: Sequence[rle.Runs | None], header: Header, t: int, params: AugmentParams, out: Pixels) -> None:
        """Draw the masks of frame t into planes (P, S, S), object o as bit o % 8 of plane o // 8."""
        (height, width), side = header.size, self.side
        sampled = not params.warped and height >= side and width >= side
        shape = (side, side) if sampled else (width, height)  # column-major, as the runs are
        for plane, packed in enumerate(out):
            # paint up to eight objects into one canvas, each with its bit
            canvas = self._buffer("canvas", shape)
            canvas.fill(0)
            for bit, track in enumerate(runs[plane * PLANES : (plane + 1) * PLANES]):
                if track is not None:
                    rle.paint(rle.resample(track, header.size, (side, side)) if sampled else track, 1 << bit, canvas)
            # bring it to its place; transposing turns columns into rows
            if params.warped:
                # the canvas is transposed: y is its column
                matrix = params.inverse(header.size, (side, side), frame=t)[::-1].copy()
                flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
                cv2.warpAffine(canvas, matrix, (side, side), dst=packed, flags=flags, borderValue=0)
                continue
            if params.flip:
                canvas = cv2.flip(canvas, 0, dst=self._buffer("mirrored", shape))
            if sampled:
                cv2.transpose(canvas, dst=packed)
            else:
                upright = cv2.transpose(canvas, dst=self._buffer("upright", (height, width)))
                cv2.resize(upright, (side, side), dst=packed, interpolation=cv2.INTER_NEAREST_EXACT)

    def _decoded(self, image: bytes, header: Header, frame: int) -> Pixels:
        """The picture (H', W', 3): no smaller than S x S, but scaled down while decoding where that is possible."""
        schema.check_image(image, header, frame)
        try:
            return schema.decode_jpeg(image, least=self.side, buffer=self._buffer("decoded", (*header.size, 3)))
        except BadSampleError as error:
            raise BadSampleError(error.cause, f"{header.key}: frame {frame}: {error.message}") from error

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Pixels:
        buffer = self.buffers.get(name)
        if buffer is None or buffer.shape != shape:
            buffer = self.buffers[name] = np.empty(shape, np.uint8)
        return buffer


def _empties_one(planes: Pixels, count: int) -> bool:
    """Whether one of `count` objects has no pixel in planes (P, S, S)."""
    seen = np.bitwise_or.reduce(planes.reshape(planes.shape[0], -1), axis=1)
    return any(not seen[o // PLANES] >> o % PLANES & 1 for o in range(count))


def recolour(image: Pixels, steps: Sequence[ColourStep], buffer: Pixels | None = None) -> tuple[Pixels, tuple[float, ...]]:
    """Apply colour steps to a picture (H, W, 3 or 4); a fourth channel is carried along unread.

    Every step is one saturating linear pass, equal to torchvision's uint8 result up to rounding. The mean that contrast
    needs comes from a sixty-fourth of a large picture's pixels. `buffer` is of the picture's shape; the picture itself
    is overwritten too.

    Returns:
        The recoloured picture, and what FILL becomes: the border is recoloured like the picture.
    """
    # a small copy goes through the same steps, for the mean grey that a later contrast needs
    channels = image.shape[2]
    stride = 8 if min(image.shape[:2]) >= 256 else 2
    small: Any = np.ascontiguousarray(image[::stride, ::stride])
    contrasts = [number for number, step in enumerate(steps) if step.kind == "contrast"]
    # and so does one pixel of the border's colour
    fill = np.zeros((1, 1, channels), np.uint8)
    fill[..., :3] = augment.FILL
    current, other = image, np.empty_like(image) if buffer is None else buffer
    for number, step in enumerate(steps):
        matrix = _affine(step, small, channels)
        cv2.transform(current, matrix, dst=other)
        current, other = other, current
        if contrasts and number < contrasts[-1]:
            small = cv2.transform(small, matrix)
        fill = cv2.transform(fill, matrix).reshape(1, 1, channels)
    return current, tuple(float(value) for value in fill.reshape(-1)[:3])


def _affine(step: ColourStep, small: Pixels, channels: int) -> NDArray[np.float32]:
    """The affine map (channels, channels + 1) of one step on a picture of which `small` is a sample."""
    linear = augment.linear(step)
    mean = float(np.floor(small[..., :3] @ np.array(augment.GREY, np.float32)).mean()) if linear.share else 0.0
    matrix = np.zeros((channels, channels + 1), np.float32)
    matrix[:3, :3] = linear.gain
    matrix[:3, -1] = linear.bias + linear.share * mean
    return matrix
