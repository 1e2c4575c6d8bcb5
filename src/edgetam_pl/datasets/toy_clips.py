"""Toy clips: textured shapes that move, turn, grow, hide one another, leave the frame and come back. No download.

Masks are exact: a pixel belongs to the object that was painted there last. Everything follows from one integer seed.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES = ("ellipse", "box", "triangle", "star", "cross", "blob")
PATTERNS = ("stripes", "checks", "dots", "clouds")

_SPRITE = 96
"""Side of an object's own picture in pixels; it is warped into the frame."""
_MIN_AREA = 0.015
"""Share of the frame that every object shows on frame 0, where trackers are prompted."""
_ATTEMPTS = 200


def toy_clip(
    seed: int, num_frames: int, size: int | tuple[int, int], num_objects: int, *, camera: float = 0.02, speed: float = 0.25
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A generated clip and the masks of its objects. The same arguments give the same clip; one frame makes an image.

    Args:
        seed: Any non-negative integer.
        num_frames: T. A longer clip of the same seed begins with the same frames.
        size: Side of a square frame, or (H, W), in pixels.
        num_objects: O. All are visible on frame 0; about a third of them leave the frame later and return.
        camera: Amplitude of the camera's sway as a share of the frame; 0 keeps it still.
        speed: Motion per frame; at 1 an object crosses its path in 22 to 44 frames.

    Returns:
        Frames (T, H, W, 3) uint8 RGB and visible masks (T, O, H, W) bool; masks never overlap.

    Raises:
        ValueError: no frame, no object, or a frame below 16 pixels.

    >>> frames, masks = toy_clip(0, 8, 64, 2)
    >>> frames.shape, masks.shape, bool(masks[0].any(axis=(1, 2)).all())
    ((8, 64, 64, 3), (8, 2, 64, 64), True)
    """
    height, width = (size, size) if isinstance(size, int) else size
    if num_frames < 1 or num_objects < 1 or min(height, width) < 16:
        raise ValueError(
            f"toy_clip was asked for {num_frames} frames of {height} x {width} with {num_objects} objects; "
            f"it needs at least 1 frame, 1 object and 16 pixels a side."
        )
    # draw objects until all show enough of themselves on frame 0
    rng, objects = np.random.default_rng(seed), []
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, num_objects, attempt])
        wheel = rng.random()
        hues = (wheel + (np.arange(num_objects) + rng.uniform(-0.15, 0.15, num_objects)) / num_objects) % 1
        objects = [_Object.draw(rng, hue, num_objects, speed) for hue in hues]
        first = _paint_masks(objects, 0, height, width, (0.0, 0.0))
        least = _MIN_AREA * min(1.0, 4.0 / num_objects)
        if (first.mean(axis=(1, 2)) >= least).all():
            break
    # what stays the same over the clip
    background = _background(rng, height, width)
    camera_path = rng.uniform(0, 2 * np.pi, 2), rng.uniform(24, 60, 2)  # phase and period in frames
    noise = rng.normal(0, 3.0, (height, width, 3)).astype(np.int16)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    masks = np.empty((num_frames, num_objects, height, width), bool)
    for t in range(num_frames):
        dx, dy = camera * np.sin(camera_path[0] + 2 * np.pi * t / camera_path[1])
        frame = _camera_view(background, dx, dy, height, width)
        masks[t] = _paint_masks(objects, t, height, width, (dx, dy))
        # paint the visible part of each object
        for item, visible in zip(objects, masks[t]):
            matrix = item.pose(t, height, width, (dx, dy))
            texture = cv2.warpAffine(
                item.texture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            np.copyto(frame, texture, where=visible[..., None])
        grain = np.roll(noise, (t * 7 % height, t * 13 % width), axis=(0, 1))  # noise that moves, at no cost
        frames[t] = np.clip(frame + grain, 0, 255)
    return frames, masks


@dataclass(frozen=True)
class _Object:
    """One object: its picture, its silhouette, and where it is at time t. Later objects lie on top."""

    texture: NDArray[np.uint8]  # (R, R, 3)
    shape: NDArray[np.uint8]  # (R, R), 0 or 255
    centre: NDArray[np.float64]  # (x, y) in frame sides
    swing: NDArray[np.float64]  # (x, y) amplitude of the path in frame sides
    period: NDArray[np.float64]  # (x, y) in frames
    phase: NDArray[np.float64]
    side: float  # of the sprite, in frame sides
    pulse: float  # amplitude of the growth, relative
    stretch: float  # width over height
    spin: float  # radians a frame
    angle: float

    @staticmethod
    def draw(rng: np.random.Generator, hue: float, count: int, speed: float) -> _Object:
        """A random object of a given hue: a clip spreads its hues over the colour wheel, so that none is mistaken."""
        leaves = rng.random() < 1 / 3  # leaves the frame and returns
        swing = rng.uniform(0.08, 0.28, 2)
        if leaves:
            swing[rng.integers(2)] = rng.uniform(0.55, 0.8)
        shrink = min(1.0, (3 / count) ** 0.5)
        return _Object(
            texture=_texture(rng, hue),
            shape=_outline_mask(rng, SHAPES[rng.integers(len(SHAPES))]),
            centre=rng.uniform(0.25, 0.75, 2),
            swing=swing,
            period=rng.uniform(22, 44, 2) / speed * (1.4 if leaves else 1.0),
            phase=rng.uniform(0, 2 * np.pi, 2),
            side=rng.uniform(0.24, 0.4) * shrink,
            pulse=rng.uniform(0.05, 0.25),
            stretch=rng.uniform(0.75, 1.33),
            spin=rng.uniform(-0.09, 0.09) * speed,
            angle=rng.uniform(0, 2 * np.pi),
        )

    def pose(self, t: int, height: int, width: int, shift: tuple[float, float]) -> NDArray[np.float64]:
        """The 2 x 3 matrix from sprite pixels to frame pixels at time t."""
        x, y = self.centre + self.swing * np.sin(self.phase + 2 * np.pi * t / self.period) + np.asarray(shift)
        scale = self.side * (1 + self.pulse * np.sin(self.phase[0] * 3 + t / 9)) * min(height, width) / _SPRITE
        cos, sin = np.cos(self.angle + self.spin * t), np.sin(self.angle + self.spin * t)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([self.stretch, 1 / self.stretch]) * scale
        offset = np.array([x * width, y * height]) - linear @ np.array([_SPRITE / 2, _SPRITE / 2])
        return np.column_stack([linear, offset])


def _paint_masks(objects: list[_Object], t: int, height: int, width: int, shift: tuple[float, float]) -> NDArray[np.bool_]:
    """Visible masks (O, H, W) at time t."""
    masks = np.empty((len(objects), height, width), bool)
    for i, item in enumerate(objects):
        matrix = item.pose(t, height, width, shift)
        masks[i] = cv2.warpAffine(item.shape, matrix, (width, height), flags=cv2.INTER_LINEAR) > 127
        masks[:i] &= ~masks[i]  # the later object hides the earlier ones
    return masks


def _background(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Pale clouds in two tones, with a margin of a quarter of the frame for the camera's sway."""
    tall, wide = int(height * 1.25), int(width * 1.25)
    tones = np.array([colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.9)) for _ in range(2)])
    mix = _clouds(rng, tall, wide)[..., None]
    return (255 * (tones[0] * mix + tones[1] * (1 - mix))).astype(np.uint8)


def _camera_view(background: NDArray[np.uint8], dx: float, dy: float, height: int, width: int) -> NDArray[np.uint8]:
    """The part of the background that the camera sees, (H, W, 3)."""
    matrix = np.array([[1, 0, dx * width - width / 8], [0, 1, dy * height - height / 8]])
    seen: Any = cv2.warpAffine(background, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return seen


def _clouds(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Smooth noise of four octaves, stretched to 0 ... 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        cells = 3 * 2**octave
        grid = rng.random((cells, cells), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 1.7**octave
    return (total - total.min()) / max(float(np.ptp(total)), 1e-6)


def _texture(rng: np.random.Generator, hue: float) -> NDArray[np.uint8]:
    """A saturated two-tone picture (R, R, 3)."""
    light = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 0.9), rng.uniform(0.8, 1.0)))
    dark = np.array(colorsys.hsv_to_rgb((hue + rng.uniform(-0.05, 0.05)) % 1, rng.uniform(0.8, 1.0), rng.uniform(0.35, 0.6)))
    y, x = np.mgrid[:_SPRITE, :_SPRITE].astype(np.float32)
    pitch = rng.uniform(10, 22)
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    if pattern == "stripes":
        mix = np.sin(2 * np.pi * x / pitch) > 0
    elif pattern == "checks":
        mix = (np.sin(2 * np.pi * x / pitch) > 0) ^ (np.sin(2 * np.pi * y / pitch) > 0)
    elif pattern == "dots":
        mix = np.hypot(x % pitch - pitch / 2, y % pitch - pitch / 2) < pitch / 3
    else:
        mix = _clouds(rng, _SPRITE, _SPRITE)
    weight = mix.astype(np.float32)[..., None]
    return (255 * (light * weight + dark * (1 - weight))).astype(np.uint8)


def _outline_mask(rng: np.random.Generator, shape: str) -> NDArray[np.uint8]:
    """A filled outline (R, R) of 0 and 255 that stays inside the sprite."""
    canvas = np.zeros((_SPRITE, _SPRITE), np.uint8)
    middle, reach = _SPRITE / 2, _SPRITE / 2 - 2
    if shape == "ellipse":
        radii, turns = np.ones(64), np.linspace(0, 2 * np.pi, 64, endpoint=False)
    elif shape == "box":
        radii, turns = np.ones(4), np.array([1, 3, 5, 7]) * np.pi / 4
    elif shape == "triangle":
        radii, turns = np.ones(3), np.array([0, 2, 4]) * np.pi / 3
    elif shape == "star":
        points = int(rng.integers(5, 8))
        radii = np.tile([1.0, rng.uniform(0.45, 0.6)], points)
        turns = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    elif shape == "cross":
        arm = rng.uniform(0.3, 0.45)
        corners = np.array([(1, arm), (arm, arm), (arm, 1), (-arm, 1), (-arm, arm), (-1, arm)])
        corners = np.concatenate([corners, -corners]) * 0.9
        radii, turns = np.hypot(*corners.T), np.arctan2(corners[:, 1], corners[:, 0])
    else:  # blob
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = sum(
            (rng.uniform(0.05, 0.2) * np.cos(k * turns + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)), np.zeros(64)
        )
        radii = 0.75 + waves
        radii /= radii.max()
    outline = np.stack([middle + reach * radii * np.cos(turns), middle + reach * radii * np.sin(turns)], axis=1)
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], 255)
    return canvas
