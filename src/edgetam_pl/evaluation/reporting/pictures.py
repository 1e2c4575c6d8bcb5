"""Pictures of an evaluation: frame, truth, prediction and error side by side, one row a chosen frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edgetam_pl.evaluation.clips import Clip, Frame, Masks
from edgetam_pl.io.overlay import paint
from edgetam_pl.io.pictures import encode_jpeg

PANEL = 240
"""Width of one panel in pixels."""
THUMBNAILS = 8
"""Of a film strip at most."""
_GAP = 4
MISSED, EXTRA = (40, 120, 255), (255, 70, 40)
"""Colours of the error panel: truth that was not found, and what was found where nothing is."""


@dataclass
class KeptMasks:
    """Predictions of a sequence until its pictures are drawn: a bit a pixel, compressed. What comes later for an object and
    a frame takes the place of what came before."""

    num_objects: int
    _packed: dict[tuple[int, int], tuple[tuple[int, ...], bytes]] = field(default_factory=dict)

    def keep(self, t: int, objects: Iterable[int], masks: Masks) -> None:
        """Keep (O, H, W) of frame t, of the objects with these indices."""
        for index, mask in zip(objects, masks):
            self._packed[t, index] = mask.shape, zlib.compress(np.packbits(mask).tobytes(), 1)

    def read(self, t: int, size: tuple[int, int]) -> Masks:
        """(O, H, W) of frame t; empty where nothing was kept."""
        masks = np.zeros((self.num_objects, *size), dtype=bool)
        for index, mask in enumerate(masks):
            if (t, index) in self._packed:
                shape, packed = self._packed[t, index]
                bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=mask.size)
                mask[:] = bits.astype(bool).reshape(shape)
        return masks


def strip(clip: Clip, kept: KeptMasks, chosen: dict[int, str]) -> bytes:
    """A JPEG with a row for each chosen frame; `chosen` gives frame numbers and captions."""
    rows = [
        row(clip.frames.read(t), clip.truths.read(t), kept.read(t, clip.size), caption=caption)
        for t, caption in sorted(chosen.items())
    ]
    return encode_jpeg(_joined(rows, axis=0))


def film(clip: Clip, kept: KeptMasks) -> bytes | None:
    """A JPEG, as wide as `strip`, of frames evenly over the clip with the prediction drawn in; None for a clip too short to
    be one."""
    count = min(THUMBNAILS, clip.num_frames)
    if count < 3:
        return None
    width = (4 * PANEL + 3 * _GAP - (THUMBNAILS - 1) * _GAP) // THUMBNAILS
    size = (width, max(round(width * clip.size[0] / clip.size[1]), 1))
    panels = []
    for t in np.linspace(0, clip.num_frames - 1, count).round().astype(int).tolist():
        small = np.asarray(cv2.resize(clip.frames.read(t), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        panels.append(_captioned(paint(small, _small(kept.read(t, clip.size), size)), str(clip.stems[t]), scale=0.28))
    return encode_jpeg(_joined(panels, axis=1))


def row(frame: Frame, truth: Masks, prediction: Masks, *, caption: str = "") -> NDArray[np.uint8]:
    """Frame, truth, prediction and error of (H, W, 3) and two (O, H, W), side by side."""
    height, width = frame.shape[:2]
    size = (PANEL, max(round(PANEL * height / width), 1))
    small = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    shown, found = _small(truth, size), _small(prediction, size)
    panels = [_captioned(small, caption), paint(small, shown), paint(small, found), _error(small, shown, found)]
    return _joined(panels, axis=1)


def _captioned(frame: Frame, caption: str, *, scale: float = 0.4) -> NDArray[np.uint8]:
    """The frame with words in a dark corner."""
    result = frame.copy()
    if caption:
        (width, height), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        bottom = len(result)
        result[bottom - height - 10 :, : width + 12] = (result[bottom - height - 10 :, : width + 12] * 0.15).astype(np.uint8)
        cv2.putText(result, caption, (6, bottom - 5), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return result


def decode_jpeg(content: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of what `encode_jpeg` wrote."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None, "our own picture can be decoded"
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _error(frame: Frame, truth: Masks, prediction: Masks) -> NDArray[np.uint8]:
    """The frame in grey, with what was missed and what was too much of any object."""
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    result = (grey * 0.45 + 40).astype(np.uint8)
    result[(prediction & ~truth).any(axis=0)] = EXTRA
    result[(truth & ~prediction).any(axis=0)] = MISSED
    return result


def _small(masks: Masks, size: tuple[int, int]) -> Masks:
    """(O, H, W) at the size (w, h) of a panel; a pixel is set where at least half of it was."""
    shrunk = [cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5 for mask in masks]
    return np.stack(shrunk) if shrunk else np.zeros((0, size[1], size[0]), dtype=bool)


def _joined(parts: list[NDArray[np.uint8]], *, axis: int) -> NDArray[np.uint8]:
    """Pictures below (axis 0) or beside (axis 1) one another, with a white gap between them."""
    edge = [(0, 0), (0, 0), (0, 0)]
    edge[axis] = (0, _GAP)
    return np.concatenate([*(np.pad(part, edge, constant_values=255) for part in parts[:-1]), parts[-1]], axis=axis)
