"""Clips as a worker hands them over, made from arrays."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edgetam_pl.data import augment
from edgetam_pl.data.augment import AugmentParams
from edgetam_pl.data.clips import ClipSelection
from edgetam_pl.data.render import Clip
from edgetam_pl.data.sample import Header
from edgetam_pl.io import rle


def encode_many(masks: NDArray[np.bool_]) -> tuple[str | None, ...]:
    """The compressed counts of masks (T, H, W); None for an empty one."""
    return tuple(rle.encode(mask) if mask.any() else None for mask in masks)


def clip(
    frames: NDArray[np.uint8], masks: NDArray[np.bool_], params: AugmentParams = augment.UNCHANGED, key: str = "k"
) -> Clip:
    """Frames (T, H, W, 3) and masks (T, O, H, W) as a clip of all frames and objects."""
    num_frames, num_objects, height, width = masks.shape
    header = Header(
        key,
        "toy",
        "v",
        "video",
        tuple(range(num_frames)),
        (height, width),
        (height, width),
        tuple(map(str, range(num_objects))),
        tuple(encode_many(masks[:, o]) for o in range(num_objects)),
    )
    images = tuple(simplejpeg.encode_jpeg(np.ascontiguousarray(f), quality=98, colorsubsampling="444") for f in frames)
    return Clip(header, ClipSelection(tuple(range(num_frames)), tuple(range(num_objects))), images, params)
