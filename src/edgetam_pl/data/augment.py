"""Table 5's augmentation, cheap enough for a data worker: one warp a frame, straight to the input size, on uint8.

Order of effects as in SAM 2's training: flip, affine, resize, colour of the clip, grey, colour of the frame. Colour is
torchvision's: brightness, contrast and saturation in random order, each rounded and clamped to uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import AugmentConfig

FILL = (123.0, 116.0, 103.0)
"""Colour outside the frame: ImageNet's mean (SAM 2 release)."""
GREY = (0.2989, 0.587, 0.114)
"""ITU-R 601 luma as torchvision rounds it."""

Matrix = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ColourStep:
    """One colour operation: brightness | contrast | saturation | grey, with torchvision's factor."""

    kind: str
    factor: float = 0.0


@dataclass(frozen=True)
class AugmentParams:
    """All that chance decides about the look of a clip."""

    flip: bool = False
    angle: float = 0.0  # degrees, torchvision's sign: clockwise
    shear: float = 0.0  # degrees along x
    colours: tuple[tuple[ColourStep, ...], ...] = ()  # of each frame, clip-wide steps included; empty: as it is

    @property
    def warped(self) -> bool:
        return bool(self.angle or self.shear)

    def upright(self) -> AugmentParams:
        """The same look without the affine part."""
        return replace(self, angle=0.0, shear=0.0)

    def inverse(self, size: tuple[int, int], target: tuple[int, int]) -> Matrix:
        """The 2 x 3 matrix from target pixel indices (x, y) to indices in a picture of `size` (H, W).

        Forward, as in the release: flip, then rotate and shear about the centre in the picture's own pixels, then resize.
        """
        (height, width), (h, w) = size, target
        a, s = np.deg2rad(self.angle), np.deg2rad(self.shear)
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.array([[1.0, -np.tan(s)], [0.0, 1.0]])
        back = np.linalg.inv(turn)
        scale = np.diag([width / w, height / h])
        centre = np.array([width / 2, height / 2])
        # continuous coordinates (centres of pixels at .5): target -> resized back -> turned back about the centre -> flipped
        linear = back @ scale
        offset = linear @ np.array([0.5, 0.5]) - back @ centre + centre
        matrix = np.column_stack([linear, offset])
        if self.flip:
            matrix[0] = -matrix[0]
            matrix[0, 2] += width
        matrix[:, 2] -= 0.5
        return matrix


AS_IT_IS = AugmentParams()


def draw(rng: np.random.Generator, config: AugmentConfig, *, num_frames: int, video: bool) -> AugmentParams:
    """A random look. Images are flipped and nothing else (Table 5)."""
    flip = bool(rng.random() < config.flip)
    if not video:
        return AugmentParams(flip=flip)
    angle = rng.uniform(-config.degrees, config.degrees)
    shear = rng.uniform(-config.shear, config.shear)
    whole = _jitter(rng, config.brightness, config.contrast, config.saturation)
    if rng.random() < config.grey:
        whole = (*whole, ColourStep("grey"))
    colours = tuple(
        (*whole, *_jitter(rng, config.frame_brightness, config.frame_contrast, config.frame_saturation))
        for _ in range(num_frames)
    )
    return AugmentParams(flip, angle, shear, colours if any(colours) else ())


def _jitter(rng: np.random.Generator, brightness: float, contrast: float, saturation: float) -> tuple[ColourStep, ...]:
    """Factors in 1 - x ... 1 + x, in random order; a strength of zero leaves the step out."""
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    order = rng.permutation(list(strengths))
    return tuple(
        ColourStep(str(kind), rng.uniform(max(0.0, 1 - strengths[kind]), 1 + strengths[kind]))
        for kind in order
        if strengths[kind] > 0
    )


def recolour(image: Pixels, steps: Sequence[ColourStep], spare: Pixels | None = None) -> tuple[Pixels, tuple[float, ...]]:
    """Apply colour steps to a picture (H, W, 3 or 4); a fourth channel is carried along unread.

    Every step is one saturating linear pass, equal to torchvision's uint8 result up to rounding. The mean that contrast
    needs comes from a sixty-fourth of a large picture's pixels. `spare` is a buffer of the picture's shape; the picture
    itself is overwritten too.

    Returns:
        The recoloured picture, and what FILL becomes: the border is recoloured like the picture.
    """
    channels = image.shape[2]
    stride = 8 if min(image.shape[:2]) >= 256 else 2
    small: Any = np.ascontiguousarray(image[::stride, ::stride])
    contrasts = [number for number, step in enumerate(steps) if step.kind == "contrast"]
    fill = np.zeros((1, 1, channels), np.uint8)
    fill[..., :3] = FILL
    current, other = image, np.empty_like(image) if spare is None else spare
    for number, step in enumerate(steps):
        matrix = _pass(step, small, channels)
        cv2.transform(current, matrix, dst=other)
        current, other = other, current
        if contrasts and number < contrasts[-1]:
            small = cv2.transform(small, matrix)
        fill = cv2.transform(fill, matrix).reshape(1, 1, channels)
    return current, tuple(float(value) for value in fill.reshape(-1)[:3])


@dataclass(frozen=True)
class Linear:
    """A colour step as out = gain @ in + bias + share * mean, where mean is the picture's mean grey."""

    gain: NDArray[np.float32]  # (3, 3)
    bias: float
    share: float = 0.0


def linear(step: ColourStep) -> Linear:
    """What a colour step does to a pixel. Half a level is taken off: torchvision rounds down."""
    grey = np.broadcast_to(np.array(GREY, np.float32), (3, 3))
    same = np.diag(np.full(3, step.factor, np.float32))
    if step.kind == "brightness":
        return Linear(same, -0.5)
    if step.kind == "contrast":
        return Linear(same, -0.5, share=1 - step.factor)
    if step.kind == "saturation":
        # the grey picture is rounded down before it is mixed in
        return Linear((same + (1 - step.factor) * grey).astype(np.float32), -0.5 - (1 - step.factor) * 0.5)
    if step.kind == "grey":
        return Linear(grey, -0.5)
    raise ValueError(f"There is no colour step {step.kind!r}; known: brightness, contrast, saturation, grey.")


def _pass(step: ColourStep, small: Pixels, channels: int) -> NDArray[np.float32]:
    """The affine map (channels, channels + 1) of one step."""
    made = linear(step)
    mean = float(np.floor(small[..., :3] @ np.array(GREY, np.float32)).mean()) if made.share else 0.0
    matrix = np.zeros((channels, channels + 1), np.float32)
    matrix[:3, :3] = made.gain
    matrix[:3, -1] = made.bias + made.share * mean
    return matrix
