"""Objects in colour over a frame: one palette and one painter for reports, training pictures, `track` and the app.

The palette is made for eyes: strong on photographs, and distinct as lines of a chart. Label PNGs keep DAVIS's palette
(`io/label_png.py`), which scorers and servers expect.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgetam_pl.io.label_png import Labels, labels_in

COLOURS = ("#d83a3a", "#2b8fd6", "#3fa34d", "#d98e04", "#9a4fd0", "#0e9e95", "#d6539f", "#85752c")
"""Colours of objects, as CSS and matplotlib take them; the ninth object has the first colour again."""

_RGB = np.array([tuple(bytes.fromhex(colour[1:])) for colour in COLOURS], dtype=np.uint8)
_THICK = 480
"""An outline has one pixel for so many pixels of the frame's shorter side."""


def colour_of(index: int) -> str:
    """The colour of object `index`, from 0: "#rrggbb"."""
    return COLOURS[index % len(COLOURS)]


def paint(frame: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]], *, opacity: float = 0.5) -> NDArray[np.uint8]:
    """Objects tinted in their colours and outlined.

    Args:
        frame: (H, W, 3) uint8 RGB; it is not changed.
        masks: O masks (H, W) bool, which may overlap: the last one is on top.
        opacity: share of the colour, 0 ... 1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return _painted(frame, enumerate(masks), opacity)


def paint_labels(frame: NDArray[np.uint8], labels: Labels, *, opacity: float = 0.5) -> NDArray[np.uint8]:
    """As `paint`, for a label map (H, W): 0 is the background, object 1 has the first colour."""
    return _painted(frame, ((label - 1, labels == label) for label in labels_in(labels) if label), opacity)


def _painted(
    frame: NDArray[np.uint8], objects: Iterable[tuple[int, NDArray[np.bool_]]], opacity: float
) -> NDArray[np.uint8]:
    painted = np.array(frame)
    outlined = []
    for index, mask in objects:
        colour = _RGB[index % len(_RGB)]
        painted[mask] = ((1 - opacity) * painted[mask] + opacity * colour).astype(np.uint8)
        outlined.append((cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0], colour))
    # outlines last, so that no later object's tint hides them
    thickness = max(1, min(frame.shape[:2]) // _THICK)
    for contours, colour in outlined:
        cv2.drawContours(painted, contours, -1, colour.tolist(), thickness)
    return painted
