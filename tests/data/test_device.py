"""Augmentation on the device: the same augmentations as in the worker, up to one more interpolation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_clips import clip

from edgetam_pl.config import AugmentConfig
from edgetam_pl.data import augment, collate
from edgetam_pl.data.augment import AugmentParams, ColourStep
from edgetam_pl.data.device import Unaugmented, augmented
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.types import VideoBatch

SIDE = 96
COLOURS = (ColourStep("contrast", 1.03), ColourStep("brightness", 0.93), ColourStep("saturation", 1.04), ColourStep("grey"))


def both(*augmentations: AugmentParams, size: tuple[int, int], objects: int = 2) -> tuple[VideoBatch, VideoBatch]:
    """The same clips, one a params, augmented by the worker and by the device."""
    clips = [clip(*toy_clip(seed, 2, size, objects), params) for seed, params in enumerate(augmentations)]
    later = [replace(one, on_device=True) for one in clips]
    worker, plain = (collate.collate(some, image_size=SIDE, source="toy").unpack() for some in (clips, later))
    assert isinstance(plain, Unaugmented)
    return worker, augmented(plain)


def agreement(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one & two).sum() / (one | two).sum())


def inner(masks: torch.Tensor) -> torch.Tensor:
    """The pixels that are further than two pixels from any edge (T, O, S, S)."""
    return torch.nn.functional.max_pool2d((~masks).float(), 5, stride=1, padding=2) == 0


CASES = [
    AugmentParams(),
    AugmentParams(flip=True),
    AugmentParams(angle=21.0, shear=-13.0),
    AugmentParams(flip=True, angle=-25.0, shear=20.0),
    AugmentParams(flip=True, angle=5.0, zooms=(0.7, 1.0, 1.5, 2.0), focus=(0.3, 0.6)),
]


@pytest.mark.parametrize("params", CASES)
def test_at_its_own_size_the_device_draws_what_the_worker_draws(params: AugmentParams) -> None:
    worker, device = both(replace(params, colours=(COLOURS, COLOURS[:2])), size=(SIDE, SIDE))
    difference = (worker.frames.int() - device.frames.int()).abs()
    assert difference.float().mean() < 1.0
    assert np.percentile(difference.numpy(), 99) <= 4
    assert agreement(worker.masks, device.masks) > (0.98 if params.warped else 1 - 1e-9)
    assert type(device) is VideoBatch


@pytest.mark.parametrize("params", CASES)
@pytest.mark.parametrize("size", [(72, 128), (150, 90)])
def test_a_picture_of_another_shape_turns_about_its_own_centre_at_its_own_angle(
    size: tuple[int, int], params: AugmentParams
) -> None:
    """Masks are sampled twice, so they differ, but by a pixel or two at their edges and nowhere else."""
    worker, device = both(params, size=size)
    assert not (inner(worker.masks) & ~device.masks).any()
    assert not (inner(~worker.masks) & device.masks).any()
    assert (worker.frames.int() - device.frames.int()).abs().float().mean() < 6


def test_every_clip_of_a_batch_keeps_its_own_look_and_objects() -> None:
    worker, device = both(*CASES, size=(SIDE, SIDE), objects=3)
    assert torch.equal(worker.video_of, device.video_of)
    assert worker.keys == device.keys
    for o in range(worker.num_objects):
        assert agreement(worker.masks[:, o], device.masks[:, o]) > 0.95


def test_a_warp_that_empties_a_mask_on_the_first_frame_is_given_up_on_the_device_too() -> None:
    frames, masks = toy_clip(0, 2, (SIDE, SIDE), 2)
    masks[:, 1] = False
    masks[:, 1, :2, :2] = True  # the corner turns out of the picture
    stored = clip(frames, masks, AugmentParams(angle=20.0))
    later = replace(stored, on_device=True)
    device = augmented(collate.collate([later], image_size=SIDE, source="toy").unpack())
    plain = collate.collate([clip(frames, masks)], image_size=SIDE, source="toy").unpack()
    assert torch.equal(device.masks, plain.masks)
    assert (device.frames.int() - plain.frames.int()).abs().max() <= 1


def test_a_batch_without_augmentations_passes_untouched_and_looks_travel_with_the_batch() -> None:
    plain = collate.collate([clip(*toy_clip(0, 2, SIDE, 2))], image_size=SIDE, source="toy").unpack()
    assert augmented(plain) is plain
    params = augment.draw(np.random.default_rng(0), AugmentConfig(), num_frames=2, video=True)
    later = replace(clip(*toy_clip(0, 2, SIDE, 2), params), on_device=True)
    moved = collate.collate([later], image_size=SIDE, source="toy").unpack().to("cpu")
    assert isinstance(moved, Unaugmented)
    assert moved.augmentations == (params,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    later = [replace(clip(*toy_clip(s, 2, SIDE, 2), params), on_device=True) for s, params in enumerate(CASES)]
    plain = collate.collate(later, image_size=SIDE, source="toy").unpack()
    cpu, gpu = augmented(plain), augmented(plain.to("cuda")).to("cpu")
    assert (cpu.frames.int() - gpu.frames.int()).abs().max() <= 1
    assert agreement(cpu.masks, gpu.masks) > 0.999


def test_views_are_augmented_on_the_device_as_the_frames_are() -> None:
    frames, masks = toy_clip(0, 2, SIDE, 2)
    params = AugmentParams(flip=True, angle=15.0, colours=((ColourStep("brightness", 1.1),),) * 2)
    later = replace(clip(frames, masks, params), on_device=True)
    batch = augmented(collate.collate([later], image_size=SIDE, source="toy", views=(SIDE * 2,)).unpack())
    assert torch.equal(batch.frames, augmented(collate.collate([later], image_size=SIDE, source="toy").unpack()).frames)
    view = torch.nn.functional.interpolate(batch.frames_at(2 * SIDE)[0].float(), (SIDE, SIDE), mode="area")
    assert (view - batch.frames[0].float()).abs().mean() < 6
