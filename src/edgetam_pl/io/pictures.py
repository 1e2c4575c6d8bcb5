"""Pictures of any usual kind as RGB pixels, upright: the one reader of images for shards, evaluation and tracking."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.files import read_file

PICTURE_FILES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned: 1 not at all, 5 to 8 by a quarter."""
_QUALITY = 82
"""Of the JPEGs of pages."""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, turned upright as EXIF says; 16 bits a value are scaled to 8.

    Raises:
        BadSampleError: the file is not there, or no picture.
    """
    return decode_picture(read_file(path, Cause.IMAGE), path)


def decode_picture(data: bytes, path: Path) -> NDArray[np.uint8]:
    """The picture in the bytes of a file. Raises BadSampleError as `read_picture` does."""
    pixels = None
    if data:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise BadSampleError(Cause.IMAGE, f"{path} cannot be read as an image ({error.err}).") from error
    if pixels is None:
        raise BadSampleError(Cause.IMAGE, f"{path} cannot be read as an image; it may be damaged, or not an image at all.")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG for a page."""
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "a picture of at least one pixel can be encoded"
    return encoded.tobytes()


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as it is shown, from its header.

    Raises:
        BadSampleError: the file is not there, or no picture.
    """
    try:
        with Image.open(path) as image:
            height, width = image.height, image.width
            # of a TIFF, PIL gives the size as it is shown
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(Cause.IMAGE, f"{path} cannot be read as an image ({error}).") from error
    return (width, height) if turned else (height, width)


def is_upright(data: bytes) -> bool:
    """May the bytes of a JPEG be shown as they are, without turning?"""
    if data.find(b"Exif\0\0", 0, 1 << 17) < 0:
        return True
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(_ORIENTATION, 1) == 1
