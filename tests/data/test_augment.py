"""Table 5's augmentation: equal to torchvision's within rounding, one warp that puts images and masks in the same place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode

from edgetam_pl.config import AugmentConfig
from edgetam_pl.data import augment
from edgetam_pl.data.augment import AugmentParams, ColourStep
from edgetam_pl.data.render import recolour
from edgetam_pl.datasets.toy_clips import toy_clip

OPERATIONS = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "grey": lambda image, _: F.rgb_to_grayscale(image, num_output_channels=3),
}


def picture(seed: int = 0, size: tuple[int, int] = (96, 120)) -> NDArray[np.uint8]:
    """A generated frame with some pixels at both ends of the scale, where rounding and clamping show."""
    frame = toy_clip(seed, 1, size, 3)[0][0]
    frame[::7, ::5] = 255
    frame[::11, ::3] = 0
    return frame


def by_torchvision(frame: NDArray[np.uint8], steps: list[ColourStep]) -> NDArray[np.uint8]:
    image = torch.from_numpy(frame.copy()).permute(2, 0, 1)
    for step in steps:
        image = OPERATIONS[step.kind](image, step.factor)
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "grey"])
@pytest.mark.parametrize("factor", [0.9, 0.97, 1.05, 1.1])
def test_one_colour_step_equals_torchvision_within_a_level(kind: str, factor: float) -> None:
    frame = picture()
    ours, _ = recolour(frame.copy(), [ColourStep(kind, factor)])
    difference = np.abs(ours.astype(int) - by_torchvision(frame, [ColourStep(kind, factor)]))
    assert difference.max() <= 1
    assert difference.mean() < 0.15


def test_the_seven_steps_of_a_frame_equal_torchvision_within_rounding() -> None:
    config = AugmentConfig(grey=0.0)
    for seed in range(20):
        params = augment.draw(np.random.default_rng(seed), config, num_frames=1, video=True)
        assert len(params.colours[0]) == 6
        frame = picture(seed)
        ours, _ = recolour(frame.copy(), params.colours[0])
        difference = np.abs(ours.astype(int) - by_torchvision(frame, list(params.colours[0])))
        assert difference.max() <= 4  # six roundings
        assert difference.mean() < 0.6


def test_the_border_is_recoloured_like_the_picture() -> None:
    frame = np.empty((64, 64, 3), np.uint8)
    frame[:] = np.array(augment.FILL)
    steps = [ColourStep("brightness", 1.1), ColourStep("saturation", 0.95), ColourStep("contrast", 0.97)]
    ours, fill = recolour(frame, steps)
    assert np.abs(ours[0, 0].astype(int) - np.array(fill)).max() <= 1


def test_an_unknown_colour_step_is_named() -> None:
    with pytest.raises(ValueError, match="hue"):
        recolour(picture(), [ColourStep("hue", 0.1)])


def warp(frame: NDArray[np.uint8], params: AugmentParams, target: tuple[int, int], flags: int) -> NDArray[np.uint8]:
    matrix = params.inverse(frame.shape[:2], target)
    return cv2.warpAffine(frame, matrix, target[::-1], flags=flags | cv2.WARP_INVERSE_MAP, borderValue=augment.FILL)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("angle", "shear"), [(25.0, 0.0), (-17.0, 20.0), (0.0, -20.0), (8.0, 11.0)])
def test_the_warp_is_torchvisions_affine(flip: bool, angle: float, shear: float) -> None:
    frame = cv2.GaussianBlur(picture(size=(90, 130)), (0, 0), 2)
    image = torch.from_numpy(frame.copy()).permute(2, 0, 1)
    image = F.horizontal_flip(image) if flip else image
    theirs = F.affine(
        image,
        angle=angle,
        translate=[0, 0],
        scale=1.0,
        shear=[shear, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=list(augment.FILL),
    ).permute(1, 2, 0)
    ours = warp(frame, AugmentParams(flip, angle, shear), (90, 130), cv2.INTER_LINEAR)
    black, white = (
        warp(np.full_like(frame, v), AugmentParams(flip, angle, shear), (90, 130), cv2.INTER_NEAREST)[..., 0]
        for v in (0, 255)
    )
    shown = ((white == 255) & (black == 0)).astype(np.uint8)
    inside = cv2.erode(shown, np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    difference = np.abs(ours.astype(int) - theirs.numpy().astype(int))[inside]
    assert inside.mean() > 0.5
    assert difference.max() <= 3
    assert difference.mean() < 0.6


def test_warp_and_resize_at_once_equal_warp_then_resize() -> None:
    frame = cv2.GaussianBlur(picture(size=(60, 100)), (0, 0), 2)
    params = AugmentParams(False, 13.0, -9.0)
    at_once = warp(frame, params, (128, 128), cv2.INTER_LINEAR)
    in_turn = cv2.resize(warp(frame, params, (60, 100), cv2.INTER_LINEAR), (128, 128), interpolation=cv2.INTER_LINEAR)
    inner = (slice(40, 90), slice(40, 90))
    assert np.abs(at_once[inner].astype(int) - in_turn[inner].astype(int)).mean() < 1.5


@pytest.mark.parametrize("flip", [False, True])
def test_a_zoom_magnifies_about_its_focus(flip: bool) -> None:
    params = AugmentParams(flip, zooms=(0.5, 2.0), focus=(0.25, 0.6))
    height, width, target = 60, 100, (120, 120)
    side, focus = (-1, np.array([0.75, 0.6])) if flip else (1, np.array([0.25, 0.6]))
    for t, zoom in enumerate(params.zooms):
        # shares of the target, counted from corner to corner -> shares of the picture
        there = np.array([[0.25, 0.6], [0.25 + 0.1, 0.6 + 0.2]]) * target - 0.5
        indices = np.column_stack([there, np.ones(2)]) @ params.inverse((height, width), target, frame=t).T
        kept, beside = (indices + 0.5) / (width, height)
        assert np.allclose(kept, focus)
        assert np.allclose(beside, focus + np.array([side * 0.1, 0.2]) / zoom)


def test_zooms_reach_from_frame_to_frame_in_equal_ratios_and_stay_within_their_factor() -> None:
    drawn = [augment.draw(np.random.default_rng(s), AugmentConfig(zoom=3.0), num_frames=5, video=True) for s in range(300)]
    zooms = np.array([params.zooms for params in drawn])
    ratios = zooms[:, 1:] / zooms[:, :-1]
    assert np.allclose(ratios, ratios[:, :1])
    growth = zooms[:, -1] / zooms[:, 0]
    assert 1 / 4 <= growth.min() < 1 / 3
    assert 3 < growth.max() <= 4
    assert 120 < (growth > 1).sum() < 180
    assert zooms.min() >= 0.5
    assert zooms.max() <= 4
    focus = np.array([params.focus for params in drawn])
    assert focus.min() >= 0.25
    assert focus.max() <= 0.75


def test_without_a_zoom_chance_decides_as_if_there_were_none() -> None:
    plain, one = np.random.default_rng(3), np.random.default_rng(3)
    params = augment.draw(one, AugmentConfig(zoom=0.0), num_frames=4, video=True)
    assert params == augment.draw(plain, AugmentConfig(), num_frames=4, video=True)
    assert params.zooms == ()
    # a single frame has nothing to grow to
    assert augment.draw(one, AugmentConfig(zoom=2.0), num_frames=1, video=True).zooms == ()


def test_images_are_flipped_and_nothing_else() -> None:
    augmentations = [augment.draw(np.random.default_rng(s), AugmentConfig(), num_frames=1, video=False) for s in range(200)]
    assert not any(params.warped or params.colours for params in augmentations)
    assert 60 < sum(params.flip for params in augmentations) < 140


def test_clip_wide_steps_come_first_and_are_the_same_in_every_frame() -> None:
    params = augment.draw(np.random.default_rng(3), AugmentConfig(), num_frames=5, video=True)
    first = [steps[:3] for steps in params.colours]
    assert all(steps == first[0] for steps in first)
    assert len({steps[-3:] for steps in params.colours}) == 5


def test_frequencies_and_ranges_are_table_fives() -> None:
    config = AugmentConfig()
    augmentations = [augment.draw(np.random.default_rng(s), config, num_frames=2, video=True) for s in range(600)]
    assert 240 < sum(params.flip for params in augmentations) < 360
    assert 12 < sum(any(step.kind == "grey" for step in params.colours[0]) for params in augmentations) < 55
    assert max(abs(params.angle) for params in augmentations) <= 25
    assert max(abs(params.shear) for params in augmentations) <= 20
    for index, strengths in ((slice(0, 3), (0.1, 0.03, 0.03)), (slice(-3, None), (0.1, 0.05, 0.05))):
        for kind, strength in zip(("brightness", "contrast", "saturation"), strengths):
            factors = [step.factor for params in augmentations for step in params.colours[1][index] if step.kind == kind]
            assert len(factors) == 600
            assert 0.9 * strength < max(factors) - 1 <= strength
            assert 0.9 * strength < 1 - min(factors) <= strength
    orders = {tuple(step.kind for step in params.colours[0][:3]) for params in augmentations}
    assert len(orders) == 6


def test_all_strengths_zero_leave_the_clip_as_it_is() -> None:
    config = AugmentConfig(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    params = augment.draw(np.random.default_rng(0), config, num_frames=4, video=True)
    assert params == augment.UNCHANGED
