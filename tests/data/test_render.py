"""How frames are shrunk: by the warp itself, or before it as SAM 2's training does, antialiased."""

from __future__ import annotations

import numpy as np
import pytest
from made_clips import clip
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.data import sample as schema
from edgetam_pl.data.augment import AugmentParams
from edgetam_pl.data.render import Clip, Renderer

SIDE = 64


def striped(params: AugmentParams) -> Clip:
    """One frame of 72 x 200 pixels with vertical stripes, each one pixel wide: no input of 64 pixels can show them."""
    frame = np.zeros((1, 72, 200, 3), np.uint8)
    frame[:, :, ::2] = 255
    return clip(frame, np.ones((1, 1, 72, 200), bool), params)


def drawn(made: Clip, *, antialias: bool) -> NDArray[np.uint8]:
    frames, planes = np.empty((1, 3, SIDE, SIDE), np.uint8), np.empty((1, 1, SIDE, SIDE), np.uint8)
    Renderer(SIDE, antialias=antialias).clip(made, frames, planes)
    return frames[0]


def test_antialiased_frames_are_pillows() -> None:
    made = striped(AugmentParams())
    picture = Image.fromarray(schema.decode_jpeg(made.images[0], least=SIDE))
    expected = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert (drawn(made, antialias=True) == expected.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("params", [AugmentParams(), AugmentParams(flip=True), AugmentParams(angle=8.0, shear=5.0)])
def test_what_is_too_fine_becomes_grey_and_no_pattern(params: AugmentParams) -> None:
    middle = (slice(None), slice(24, 40), slice(24, 40))
    assert drawn(striped(params), antialias=False)[middle].std() > 40
    assert drawn(striped(params), antialias=True)[middle].std() < 12


def test_a_shrunk_frame_is_warped_about_the_same_centre() -> None:
    frame = np.full((1, 80, 160, 3), 20, np.uint8)
    frame[:, 20:60, 50:90] = 230  # large enough that both ways of shrinking agree but at its edges
    made = clip(frame, np.ones((1, 1, 80, 160), bool), AugmentParams(flip=True, angle=12.0, shear=-9.0))
    plain, soft = (drawn(made, antialias=antialias).astype(int) for antialias in (False, True))
    assert np.abs(plain - soft).mean() < 6
    assert (np.abs(plain - soft) > 100).mean() < 0.01
