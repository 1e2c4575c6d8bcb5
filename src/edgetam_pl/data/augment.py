"""Table 5's augmentation, described: what chance decides about a clip, and the geometry and colour that follow from it.

Two modules draw what is described here: `render.py` in a data worker (OpenCV, while a frame is decoded), `device.py` where
the batch is (torch). Order of effects as in SAM 2's training: flip, affine, resize, colour of the clip, grey, colour of the
frame. A zoom, which SAM 2 does not have, is part of the affine step and changes from frame to frame. Colour is
torchvision's: brightness, contrast and saturation in random order, each rounded and clamped to uint8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import AugmentConfig

FILL = (123.0, 116.0, 103.0)
"""Colour outside the frame: ImageNet's mean (SAM 2 release)."""
GREY = (0.2989, 0.587, 0.114)
"""ITU-R 601 luma as torchvision rounds it."""


@dataclass(frozen=True)
class ColourStep:
    """One colour operation: brightness | contrast | saturation | grey, with torchvision's factor."""

    kind: str
    factor: float = 0.0


@dataclass(frozen=True)
class AugmentParams:
    """All that chance decides about the pixels of a clip."""

    flip: bool = False
    angle: float = 0.0  # degrees, torchvision's sign: clockwise
    shear: float = 0.0  # degrees along x
    zooms: tuple[float, ...] = ()  # magnification of each frame; empty: none
    focus: tuple[float, float] = (0.5, 0.5)  # the point (x, y) that a zoom leaves in its place, as shares of the picture
    colours: tuple[tuple[ColourStep, ...], ...] = ()  # of each frame, clip-wide steps included; empty: unchanged

    @property
    def warped(self) -> bool:
        return bool(self.angle or self.shear or self.zooms)

    def without_warp(self) -> AugmentParams:
        """The same without the affine part: what the SAM 2 release does with a warp that empties a mask on frame 0."""
        return replace(self, angle=0.0, shear=0.0, zooms=())

    def inverse(
        self, size: tuple[int, int], target: tuple[int, int], *, frame: int = 0, stored: tuple[int, int] | None = None
    ) -> NDArray[np.float64]:
        """The 2 x 3 matrix from target pixel indices (x, y) to indices in a picture of `size` (H, W).

        Forward, as in the release: flip, then rotate and shear about the centre in the picture's own pixels, then zoom, then
        resize.

        Args:
            frame: place of the picture in its clip, which decides the zoom.
            stored: (H, W) of the picture at hand where it has been resized since; indices are then those of its pixels.
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
        if self.zooms:
            # before it is turned back, a point comes nearer to the focus
            zoom, focus = self.zooms[frame], np.array(self.focus) * (width, height)
            linear = linear / zoom
            offset = linear @ np.array([0.5, 0.5]) + back @ (focus * (1 - 1 / zoom) - centre) + centre
        matrix = np.column_stack([linear, offset])
        if self.flip:
            matrix[0] = -matrix[0]
            matrix[0, 2] += width
        matrix[:, 2] -= 0.5
        if stored is not None:
            # the picture's own pixels -> those it was resized to; centres of pixels stay at .5
            shrink = np.array([stored[1] / width, stored[0] / height])
            matrix *= shrink[:, None]
            matrix[:, 2] += (shrink - 1) / 2
        return matrix


UNCHANGED = AugmentParams()


def draw(rng: np.random.Generator, config: AugmentConfig, *, num_frames: int, video: bool) -> AugmentParams:
    """Draw the parameters of a clip. Images are flipped and nothing else (Table 5)."""
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
    zooms, focus = _zoom(rng, 1 + config.zoom, num_frames)
    return AugmentParams(flip, angle, shear, zooms, focus, colours if any(colours) else ())


def _zoom(rng: np.random.Generator, largest: float, num_frames: int) -> tuple[tuple[float, ...], tuple[float, float]]:
    """The magnification of each frame, in equal ratios, and the focus. One end of the clip is up to `largest` times as large
    as the other, and the smaller end is the picture or down to 1 / sqrt(`largest`) of it. Nothing is drawn where it is 1."""
    if largest == 1 or num_frames == 1:
        return (), (0.5, 0.5)
    smaller, growth = -rng.random() * np.log(largest) / 2, rng.random() * np.log(largest)
    ends = (smaller, smaller + growth)
    start, end = ends if rng.random() < 0.5 else ends[::-1]
    x, y = rng.uniform(0.25, 0.75, 2)
    return tuple(float(zoom) for zoom in np.exp(np.linspace(start, end, num_frames))), (float(x), float(y))


def _jitter(rng: np.random.Generator, brightness: float, contrast: float, saturation: float) -> tuple[ColourStep, ...]:
    """Factors in 1 - x ... 1 + x, in random order; a strength of zero leaves the step out."""
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    order = rng.permutation(list(strengths))
    return tuple(
        ColourStep(str(kind), rng.uniform(max(0.0, 1 - strengths[kind]), 1 + strengths[kind]))
        for kind in order
        if strengths[kind] > 0
    )


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
