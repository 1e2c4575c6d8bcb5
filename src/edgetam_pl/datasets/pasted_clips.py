"""Images with masks as clips: objects cut out, pasted on another picture, each moving on a path of its own.

How STM, STCN, XMem and Cutie pre-train: masks of images are plenty, masks of videos are few. Masks are exact: a pixel
belongs to the object that covers more than half of it and was pasted last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import ShardsConfig

Pixels = NDArray[np.uint8]

SHARE = (0.015, 0.5)
"""Least and largest share of its own picture that an object to cut out may cover."""
AREA = (0.02, 0.22)
"""Least and largest share of the frame that a pasted object covers in its middle pose."""
SPRITE = 256
"""Longest side of a cut-out in pixels."""
_VISIBLE = 0.004
"""Share of the frame that every object shows on frame 0, where trackers are prompted."""
_ATTEMPTS = 50
_MARGIN = 12
"""Pixels around a cut-out's object, so that it can bend."""
_NO_SECOND_MAP: Any = None
"""For cv2.remap, whose first map here holds x and y; its type stubs do not know that None is meant."""


@dataclass(frozen=True)
class Cutout:
    """An object with the pixels around it."""

    pixels: Pixels  # (h, w, 3) RGB
    mask: NDArray[np.float32]  # (h, w), 0 ... 1

    @staticmethod
    def of(image: Pixels, mask: NDArray[np.bool_]) -> Cutout:
        """The object under `mask` (H, W), not empty, of an image (H, W, 3), no larger than SPRITE."""
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        rows, columns = slice(max(y - _MARGIN, 0), y + h + _MARGIN), slice(max(x - _MARGIN, 0), x + w + _MARGIN)
        pixels, soft = image[rows, columns], mask[rows, columns].astype(np.float32)
        shrink = min(SPRITE / max(soft.shape), 1.0)
        size = (max(round(soft.shape[1] * shrink), 1), max(round(soft.shape[0] * shrink), 1))
        pixels, soft = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (pixels, soft))
        m = _MARGIN
        pixels = cv2.copyMakeBorder(pixels, m, m, m, m, cv2.BORDER_REPLICATE)
        soft = cv2.copyMakeBorder(soft, m, m, m, m, cv2.BORDER_CONSTANT)
        return Cutout(np.asarray(pixels, np.uint8), np.asarray(soft, np.float32))


def pasted_clip(
    rng: np.random.Generator,
    background: Pixels,
    cutouts: Sequence[Cutout],
    num_frames: int,
    size: int,
    growth: float = ShardsConfig.growth,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """A clip in which the cut-outs move over the background. The same state of `rng` gives the same clip.

    Args:
        background: (h, w, 3) RGB; the frames have its proportions.
        cutouts: O objects; a later one covers earlier ones. All show on frame 0, about a fourth leaves and returns.
        num_frames: T.
        size: shorter side of a frame in pixels.
        growth: how many times larger or smaller than in its middle pose an object becomes at most.

    Returns:
        Frames (T, H, W, 3) uint8 RGB and visible masks (T, O, H, W) bool; masks never overlap.
    """
    scale = size / min(background.shape[:2])
    height, width = (max(round(side * scale), 1) for side in background.shape[:2])
    whole, paths = _Box(0, 0, width, height), list[_Path]()
    for _ in range(_ATTEMPTS):  # until every object shows on frame 0
        paths = [_Path.of_object(rng, cutout, height, width, growth) for cutout in cutouts]
        first = _visible(np.stack([_soft(one, path, 0, whole) for one, path in zip(cutouts, paths, strict=True)]))
        if (first.mean(axis=(1, 2)) >= _VISIBLE).all():
            break
    camera = _Path.of_camera(rng, background, height, width)
    exposure = rng.uniform(0.2, 0.6) if rng.random() < 0.35 else 0.0  # of a frame's time, the shutter is open
    moments = np.linspace(-exposure / 2, exposure / 2, 5 if exposure else 1)
    light, feather = _Wave.draw(rng, rng.uniform(0, 0.15)), rng.uniform(0.4, 1.0)
    frames, masks = (
        np.empty((num_frames, height, width, 3), np.uint8),
        np.empty((num_frames, len(cutouts), height, width), bool),
    )
    for t in range(num_frames):
        frame = np.mean([_warp(background, camera.matrix(t + dt), whole, cv2.BORDER_REFLECT_101) for dt in moments], axis=0)
        covers = np.zeros((len(cutouts), height, width), np.float32)
        for cutout, path, whole_cover in zip(cutouts, paths, covers, strict=True):
            box = path.box([t + dt for dt in moments], height, width)
            seen = [_look(cutout, path, t + dt, box) for dt in moments]  # colours and cover while the shutter is open
            cover = whole_cover[box.slices()]
            cover += np.mean([soft for _, soft in seen], axis=0)
            colour = sum(pixels * soft[..., None] for pixels, soft in seen) / np.maximum(cover * len(seen), 1e-3)[..., None]
            alpha = cv2.GaussianBlur(cover, (0, 0), feather)[..., None]
            below = frame[box.slices()]
            below += (np.where(cover[..., None] > 0.05, colour, below) - below) * alpha
        frames[t] = np.clip(frame * (1 + light.at(t)), 0, 255)
        masks[t] = _visible(covers)
    return frames, masks


@dataclass(frozen=True)
class _Box:
    """A part of the frame, in pixels."""

    x: int
    y: int
    width: int
    height: int

    def slices(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True)
class _Wave:
    """A smooth random number over time: two sines of different periods."""

    amplitude: float
    periods: NDArray[np.float64]  # (2,) in frames
    phases: NDArray[np.float64]  # (2,)

    @staticmethod
    def draw(rng: np.random.Generator, amplitude: float) -> _Wave:
        return _Wave(amplitude, rng.uniform((18, 7), (50, 18)), rng.uniform(0, 2 * np.pi, 2))

    def at(self, t: float) -> float:
        slow, quick = np.sin(self.phases + 2 * np.pi * t / self.periods)
        return float(self.amplitude * (0.75 * slow + 0.25 * quick))


@dataclass(frozen=True)
class _Path:
    """Where a picture is at time t: shift, turn, scale, shear, and for objects a bend."""

    middle: NDArray[np.float64]  # (x, y) of the picture's middle, in its pixels
    place: NDArray[np.float64]  # (x, y) of its middle in the frame, in pixels
    frame: NDArray[np.float64]  # (W, H) in pixels
    scale: float
    flip: float  # 1 or -1
    waves: tuple[_Wave, ...]  # x and y in frame sides, turn in radians, log scale, shear
    bend: NDArray[np.float32] | None = None  # (h, w, 2) displacement in the picture's pixels at its largest
    sway: _Wave | None = None  # of the bend, amplitude 1

    @staticmethod
    def of_object(rng: np.random.Generator, cutout: Cutout, height: int, width: int, growth: float) -> _Path:
        area = np.exp(rng.uniform(*np.log(AREA))) * height * width
        h, w = cutout.mask.shape
        swing = rng.uniform(0.02, 0.25, 2)
        if rng.random() < 0.25:  # leaves the frame and returns
            swing[rng.integers(2)] = rng.uniform(0.6, 0.9)
        most = round(float(np.log(growth)), 3)  # rounded: 1.35 is the 0.3 of clips made before there was a choice
        amplitudes = (*swing, rng.uniform(0, 0.5), rng.uniform(0, most), rng.uniform(0, 0.25))
        coarse = rng.normal(0, 1, (4, 4, 2)).astype(np.float32) * rng.uniform(0, 0.05) * min(h, w)
        return _Path(
            middle=np.array([w, h]) / 2,
            place=rng.uniform(0.2, 0.8, 2) * (width, height),
            frame=np.array([width, height], np.float64),
            scale=float(np.sqrt(area / max(cutout.mask.sum(), 1.0))),
            flip=rng.choice((-1.0, 1.0)),
            waves=tuple(_Wave.draw(rng, amplitude) for amplitude in amplitudes),
            bend=np.asarray(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC), np.float32),
            sway=_Wave.draw(rng, 1.0),
        )

    @staticmethod
    def of_camera(rng: np.random.Generator, background: Pixels, height: int, width: int) -> _Path:
        h, w = background.shape[:2]
        zoom = rng.uniform(1.0, 1.5)  # what is beyond the picture is its reflection
        still = rng.random() < 0.2
        most = (0.0,) * 5 if still else (0.15, 0.1, 0.08, 0.12, 0.04)
        waves = tuple(_Wave.draw(rng, rng.uniform(0, amplitude)) for amplitude in most)
        frame = np.array([width, height], np.float64)
        return _Path(np.array([w, h]) / 2, frame / 2, frame, zoom * height / h, rng.choice((-1.0, 1.0)), waves)

    def matrix(self, t: float) -> NDArray[np.float64]:
        """The 2 x 3 matrix from the picture's pixels to the frame's at time t."""
        x, y, turn, growth, shear = (wave.at(t) for wave in self.waves)
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[self.flip, shear], [0, 1]]) * self.scale * np.exp(growth)
        return np.column_stack([linear, self.place + np.array([x, y]) * self.frame - linear @ self.middle])

    def box(self, times: Sequence[float], height: int, width: int) -> _Box:
        """The part of the frame, at least a pixel, that the picture touches at these times."""
        w, h = 2 * self.middle
        corners = np.array([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]])
        places = np.concatenate([corners @ self.matrix(t).T for t in times])
        low, high = np.floor(places.min(axis=0)) - 2, np.ceil(places.max(axis=0)) + 2
        x, y = (int(np.clip(at, 0, most - 1)) for at, most in zip(low, (width, height)))
        right, bottom = (int(np.clip(at, first + 1, most)) for at, first, most in zip(high, (x, y), (width, height)))
        return _Box(x, y, right - x, bottom - y)


def _look(cutout: Cutout, path: _Path, t: float, box: _Box) -> tuple[Any, Any]:
    """Colours (h, w, 3) and cover (h, w) of an object at time t in a part of the frame, float32."""
    field = _bent(path, t)
    pixels = cv2.remap(cutout.pixels, field, _NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _warp(pixels, path.matrix(t), box, cv2.BORDER_REPLICATE), _soft(cutout, path, t, box, field)


def _soft(cutout: Cutout, path: _Path, t: float, box: _Box, field: Any = None) -> NDArray[np.float32]:
    """How much of each pixel (h, w) of a part of the frame an object covers at time t."""
    bent = cv2.remap(cutout.mask, _bent(path, t) if field is None else field, _NO_SECOND_MAP, cv2.INTER_LINEAR)
    return np.asarray(_warp(bent, path.matrix(t), box, cv2.BORDER_CONSTANT), np.float32)


def _bent(path: _Path, t: float) -> NDArray[np.float32]:
    """Where each pixel of a bent cut-out comes from, (h, w, 2) in x, y."""
    assert path.bend is not None
    assert path.sway is not None
    h, w = path.bend.shape[:2]
    still = np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), axis=-1)
    return np.asarray(still + path.bend * np.float32(path.sway.at(t)), np.float32)


def _warp(picture: Any, matrix: NDArray[np.float64], box: _Box, border: int) -> Any:
    """The picture in a part of the frame, float32; smoothed first where it is made much smaller."""
    shrink = 1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6)
    if shrink > 1.5:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.4 * shrink)
    moved = matrix - np.array([[0, 0, box.x], [0, 0, box.y]])
    seen: Any = cv2.warpAffine(picture, moved, (box.width, box.height), flags=cv2.INTER_LINEAR, borderMode=border)
    return seen.astype(np.float32)


def _visible(covers: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Covers (O, H, W) in the order they are pasted -> visible masks (O, H, W)."""
    masks = covers > 0.5
    for i in range(len(masks)):
        masks[:i] &= ~masks[i]
    return masks
