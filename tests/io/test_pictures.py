"""A picture is upright, whatever its format and its note on how to turn it; its size is known without decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from awkward_inputs import picture
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.io.pictures import picture_size, read_picture

Turn = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

STORED: dict[int, Turn] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""How pixels lie in a file of each orientation."""


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", list(STORED))
def test_the_orientation_is_applied_in_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif, path = Image.Exif(), tmp_path / f"a{suffix}"
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](picture(0)))).save(path, exif=exif)
    assert picture_size(path) == (96, 128)
    pixels = read_picture(path)
    assert pixels.shape == (96, 128, 3)
    assert np.abs(pixels.astype(int) - picture(0)).mean() < 10


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK"])
def test_every_kind_of_pixel_is_read_as_pil_reads_it(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(0)).convert(mode).save(path)
    with Image.open(path) as image:
        assert np.abs(read_picture(path).astype(int) - np.asarray(image.convert("RGB"))).mean() < 2
