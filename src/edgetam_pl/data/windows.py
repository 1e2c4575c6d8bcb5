"""Frames of a data set to samples: overlapping windows, shrunk and encoded where that is asked for."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data.sample import Header, Sample
from edgetam_pl.datasets.layout import AnnotatedFrame
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.pictures import decode_picture, is_upright, picture_size

Skip = Callable[[BadSampleError], None]
"""Called with everything that is left out."""


@dataclass(frozen=True)
class _Stored:
    """A frame as it goes into the shard."""

    number: int
    image: bytes
    masks: dict[str, str]
    size: tuple[int, int]
    original: tuple[int, int]


def samples(
    cfg: ShardsConfig, item: str, kind: str, frames: Iterable[AnnotatedFrame | BadSampleError], skip: Skip
) -> Iterator[Sample]:
    """The windows of one video, or the one sample of an image. `skip(error)` is called for every frame that is left out."""
    origin: int | None = None
    for position, window in _windows(_stored(cfg, frames, skip), cfg.window, cfg.stride):
        names = sorted({name for frame in window for name in frame.masks}, key=_numbers_first)
        if not names:
            skip(BadSampleError(Cause.NO_OBJECT, f"{item}: no object in frames {window[0].number} to {window[-1].number}"))
            continue
        sizes = {frame.size for frame in window}
        if len(sizes) > 1:
            skip(BadSampleError(Cause.IMAGE_SIZE, f"{item}: frames of several sizes ({sorted(sizes)}) in one window"))
            continue
        header = Header(
            key=schema.safe_key(item, window[0].number),
            source=cfg.name or cfg.source,
            video=item,
            kind=kind,
            frames=tuple(frame.number for frame in window),
            size=window[0].size,
            original_size=window[0].original,
            objects=tuple(names),
            masks=tuple(tuple(frame.masks.get(name) for frame in window) for name in names),
        )
        origin = position if origin is None else origin  # a video begins with the first window that is kept
        yield Sample(header, tuple(frame.image for frame in window), position - origin)


def _windows(frames: Iterator[_Stored], length: int, stride: int) -> Iterator[tuple[int, list[_Stored]]]:
    """Stretches of `length` frames, `stride` apart, the last one flush with the end; a shorter video is one stretch. Each
    with the position of its first frame."""
    held: deque[_Stored] = deque(maxlen=length)
    since = 0  # frames since the last window ended; before the first one, all frames
    first = True
    count = 0
    for count, frame in enumerate(frames, 1):
        held.append(frame)
        since += 1
        if len(held) == length and (first or since == stride):
            yield count - length, list(held)
            first, since = False, 0
    if held and (first or since):
        yield count - len(held), list(held)


def _stored(cfg: ShardsConfig, frames: Iterable[AnnotatedFrame | BadSampleError], skip: Skip) -> Iterator[_Stored]:
    for frame in frames:
        if isinstance(frame, BadSampleError):
            skip(frame)
            continue
        try:
            yield _store(cfg, frame)
        except BadSampleError as error:
            skip(error)


def _store(cfg: ShardsConfig, frame: AnnotatedFrame) -> _Stored:
    """Bytes and runs of a frame, shrunk when asked.

    Raises:
        BadSampleError: the image cannot be decoded, or a mask is not of its size.
    """
    image, pixels, original = _image(cfg, frame)
    where = str(frame.image) if isinstance(frame.image, Path) else f"frame {frame.number}"
    size = original
    if cfg.short_side and min(original) > cfg.short_side:
        scale = cfg.short_side / min(original)
        size = (max(round(original[0] * scale), 1), max(round(original[1] * scale), 1))
        pixels = schema.decode_jpeg(image or b"") if pixels is None else pixels
        pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
        image = None
    if image is None:
        assert pixels is not None
        image = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=cfg.quality, colorsubsampling=cfg.chroma)
    masks = {}
    for name, mask in frame.masks.items():
        found = mask.size if isinstance(mask, rle.Rle) else mask.shape
        if found != original:
            raise BadSampleError(
                Cause.MASK_SIZE, f"{where} is {original[0]} x {original[1]} pixels, its mask {tuple(found)}"
            )
        counts = mask.counts if isinstance(mask, rle.Rle) else rle.encode(mask)
        if size != original:
            runs = rle.resample(rle.parse(counts, original), original, size)
            counts = rle.to_counts(runs) if rle.area(runs) else None
        if counts is not None:
            masks[name] = counts
    return _Stored(frame.number, image, masks, size, original)


def _image(cfg: ShardsConfig, frame: AnnotatedFrame) -> tuple[bytes | None, NDArray[np.uint8] | None, tuple[int, int]]:
    """(JPEG bytes that may be kept, pixels if decoded, (H, W)). Files that are no plain JPEG come as pixels."""
    if not isinstance(frame.image, Path):
        return None, frame.image, (frame.image.shape[0], frame.image.shape[1])
    try:
        data = frame.image.read_bytes()
    except OSError as error:
        raise BadSampleError(Cause.IMAGE, f"{frame.image} cannot be read ({error.strerror})") from error
    if not data:
        raise BadSampleError(Cause.MEMBER_EMPTY, f"{frame.image} is empty")
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colours = schema.jpeg_header(data)
            if height * width > rle.MAX_PIXELS:
                raise BadSampleError(Cause.IMAGE_SIZE, f"claims {height} x {width} pixels")
            if colours in {"YCbCr", "Gray", "RGB"} and is_upright(data):
                if cfg.check:
                    schema.decode_jpeg(data, strict=True)
                return data, None, (height, width)
        except BadSampleError as error:
            raise BadSampleError(error.cause, f"{frame.image}: {error.message}") from error
    claimed = picture_size(frame.image)
    if claimed[0] * claimed[1] > rle.MAX_PIXELS:
        raise BadSampleError(Cause.IMAGE_SIZE, f"{frame.image} claims {claimed[0]} x {claimed[1]} pixels")
    pixels = decode_picture(data, frame.image)
    return None, pixels, (pixels.shape[0], pixels.shape[1])


def _numbers_first(name: str) -> tuple[int, str]:
    """Order of object names: 2 before 10."""
    return (int(name), "") if name.isdigit() else (sys.maxsize, name)
