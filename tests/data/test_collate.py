"""From bytes to a batch: images and masks stay together whatever the warp, any number of objects, overlaps kept."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from made_clips import clip
from numpy.typing import NDArray

from edgetam_pl.data import augment
from edgetam_pl.data import collate as packing
from edgetam_pl.data.augment import AugmentParams, ColourStep
from edgetam_pl.data.clips import ClipSelection
from edgetam_pl.data.render import Clip, recolour
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.types import VideoBatch


def collate(clips: list[Clip], *, image_size: int, source: str) -> VideoBatch:
    """A batch, unpacked."""
    return packing.collate(clips, image_size=image_size, source=source).unpack()


def silhouettes(size: tuple[int, int], num_frames: int = 2, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One large white object on black: where the image is white, the mask must be."""
    masks = np.zeros((num_frames, 1, *size), bool)
    for t in range(num_frames):
        canvas = np.zeros(size, np.uint8)
        centre = (size[1] // 2 + 3 * t - 6, size[0] // 2 - 4)
        cv2.ellipse(canvas, centre, (size[1] // 4, size[0] // 6), 30 + 10 * t + seed, 0, 300, 1, -1)
        masks[t, 0] = canvas > 0
    frames = np.repeat(masks[:, 0, :, :, None], 3, axis=3).astype(np.uint8) * 255
    return frames, masks


def agreement(frames: torch.Tensor, masks: torch.Tensor) -> float:
    """IoU of the bright pixels (T, 3, S, S) and the masks (T, 1, S, S)."""
    bright = frames.float().mean(1) > 127
    masks = masks[:, 0]
    return float((bright & masks).sum() / (bright | masks).sum())


CASES = [
    AugmentParams(),
    AugmentParams(flip=True),
    AugmentParams(angle=25.0, shear=-20.0),
    AugmentParams(flip=True, angle=-14.0, shear=9.0),
]


@pytest.mark.parametrize("params", CASES)
@pytest.mark.parametrize("size", [(120, 200), (200, 120), (96, 96), (60, 70), (300, 500)])
def test_masks_lie_on_their_objects_at_every_size_and_params(size: tuple[int, int], params: AugmentParams) -> None:
    frames, masks = silhouettes(size)
    batch = collate([clip(frames, masks, params)], image_size=96, source="toy")
    assert agreement(batch.frames[0], batch.masks) > (0.97 if params == AugmentParams() else 0.94)


@pytest.mark.parametrize("params", CASES)
def test_the_border_of_a_warped_picture_is_filled_and_belongs_to_nobody(params: AugmentParams) -> None:
    masks = np.ones((1, 1, 80, 80), bool)
    frames = np.full((1, 80, 80, 3), 255, np.uint8)
    batch = collate([clip(frames, masks, params)], image_size=64, source="toy")
    outside = ~batch.masks[0, 0]
    assert outside.any() == params.warped
    if params.warped:
        deep = cv2.erode(outside.numpy().astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
        assert (batch.frames[0, 0].permute(1, 2, 0)[torch.from_numpy(deep)] == torch.tensor(augment.FILL)).all()


def test_at_its_own_size_a_clip_is_what_was_stored() -> None:
    frames, masks = toy_clip(0, 3, 64, 3)
    stored = clip(frames, masks)
    batch = collate([stored], image_size=64, source="toy")
    for t, image in enumerate(stored.images):
        assert np.array_equal(batch.frames[0, t].permute(1, 2, 0).numpy(), simplejpeg.decode_jpeg(image))
    assert np.array_equal(batch.masks.numpy(), masks)


@pytest.mark.parametrize("size", [(90, 150), (50, 40)])
def test_without_a_warp_masks_are_sampled_at_pixel_centres(size: tuple[int, int]) -> None:
    frames, masks = toy_clip(1, 1, size, 3)
    batch = collate([clip(frames, masks)], image_size=64, source="toy")
    rows, columns = (np.minimum(((np.arange(64) + 0.5) * n / 64).astype(int), n - 1) for n in size)
    expected = masks[0][:, rows][:, :, columns]
    difference = batch.masks[0].numpy() != expected
    assert difference.mean() < (1e-9 if min(size) >= 64 else 0.01)  # enlarging rounds ties on its own


def test_frames_are_resized_like_any_bilinear_resize() -> None:
    frames, masks = toy_clip(2, 1, (50, 70), 1)
    stored = clip(frames, masks)
    batch = collate([stored], image_size=96, source="toy")
    expected = cv2.resize(simplejpeg.decode_jpeg(stored.images[0]), (96, 96), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(batch.frames[0, 0].permute(1, 2, 0).numpy(), expected)


def test_a_much_larger_picture_is_averaged_not_sampled() -> None:
    """Stripes of one pixel become grey: neither the scaled decoding nor the resize may alias."""
    frames = np.zeros((1, 512, 512, 3), np.uint8)
    frames[:, :, ::2] = 255
    batch = collate([clip(frames, np.ones((1, 1, 512, 512), bool))], image_size=64, source="toy")
    assert batch.frames.float().std() < 3
    assert abs(batch.frames.float().mean() - 127.5) < 4


@pytest.mark.parametrize("params", [AugmentParams(), AugmentParams(flip=True), AugmentParams(angle=10.0)])
def test_twenty_overlapping_objects_are_kept_apart(params: AugmentParams) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((1, 20, 100, 130), bool)
    for o in range(20):
        top, left = rng.integers(0, 60), rng.integers(0, 80)
        masks[0, o, top : top + rng.integers(20, 40), left : left + rng.integers(20, 50)] = True
    frames = np.zeros((1, 100, 130, 3), np.uint8)
    together = collate([clip(frames, masks, params)], image_size=64, source="toy")
    assert (together.masks.sum(1) > 1).any()
    for o in range(20):
        alone = collate([clip(frames, masks[:, o : o + 1], params)], image_size=64, source="toy")
        assert torch.equal(alone.masks[:, 0], together.masks[:, o])


def test_a_warp_that_empties_a_mask_on_the_first_frame_is_given_up_for_the_whole_clip() -> None:
    frames, masks = silhouettes((100, 100))
    masks = np.concatenate([masks, np.zeros_like(masks)], axis=1)
    masks[:, 1, 0:2, 0:2] = True  # the corner turns out of the picture
    turned = collate([clip(frames, masks, AugmentParams(angle=20.0))], image_size=96, source="toy")
    plain = collate([clip(frames, masks)], image_size=96, source="toy")
    assert torch.equal(turned.masks, plain.masks)
    assert torch.equal(turned.frames, plain.frames)


def test_colour_is_the_same_before_and_after_the_resize() -> None:
    """Recoloured where there are fewer pixels: early for small pictures, late for large ones."""
    steps = (ColourStep("brightness", 1.08), ColourStep("saturation", 0.96), ColourStep("contrast", 1.04))
    for size in ((48, 48), (128, 128)):
        frames, masks = toy_clip(3, 1, size, 2)
        plain = collate([clip(frames, masks)], image_size=64, source="toy").frames[0, 0].permute(1, 2, 0).numpy()
        recoloured = collate([clip(frames, masks, AugmentParams(colours=(steps,)))], image_size=64, source="toy").frames[
            0, 0
        ]
        expected, _ = recolour(plain.copy(), steps)
        difference = np.abs(recoloured.permute(1, 2, 0).numpy().astype(int) - expected)
        assert difference.mean() < 1
        assert np.percentile(difference, 99.5) <= 3  # but for pixels at the ends of the scale


def test_objects_know_their_video_and_clips_their_names() -> None:
    clips = [clip(*toy_clip(seed, 2, 32, objects), key=f"c{seed}") for seed, objects in ((0, 2), (1, 1), (2, 3))]
    batch = collate(clips, image_size=32, source="mine")
    assert batch.video_of.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.keys == ("c0@0", "c1@0", "c2@0")
    assert batch.source == "mine"
    assert batch.masks.shape == (2, 6, 32, 32)
    assert batch.frames.is_contiguous()


def test_a_grey_jpeg_is_a_picture_too() -> None:
    frames, masks = toy_clip(0, 1, 32, 1)
    made = clip(frames, masks)
    grey = simplejpeg.encode_jpeg(
        frames[0].mean(axis=2, keepdims=True).astype(np.uint8), colorspace="GRAY", colorsubsampling="Gray"
    )
    batch = collate([Clip(made.header, made.selection, (grey,), made.augmentation)], image_size=32, source="toy")
    assert torch.equal(batch.frames[0, 0, 0], batch.frames[0, 0, 2])


def test_only_chosen_frames_and_objects_are_decoded() -> None:
    """What was not chosen may be broken: nobody augmentations at it."""
    made = clip(*toy_clip(0, 3, 32, 3))
    masks = (made.header.masks[0], ("~~", *made.header.masks[1][1:]), ("~~",) * 3)
    header = replace(made.header, masks=masks)
    chosen = Clip(header, ClipSelection((1, 2), (0, 1)), made.images[1:], made.augmentation)
    batch = collate([chosen], image_size=32, source="toy")
    assert batch.masks.shape == (2, 2, 32, 32)
    with pytest.raises(BadSampleError, match="object 1, frame 0"):
        collate([Clip(header, ClipSelection((0, 1), (0, 1)), made.images[:2])], image_size=32, source="toy")


def test_what_cannot_be_decoded_is_named_with_its_sample() -> None:
    frames, masks = toy_clip(0, 1, 32, 1)
    made = clip(frames, masks, key="here")
    torn = made.images[0][:40]
    with pytest.raises(BadSampleError, match="here") as caught:
        collate([Clip(made.header, made.selection, (torn,), made.augmentation)], image_size=32, source="toy")
    assert caught.value.cause is Cause.IMAGE
    assert caught.value.place == 0


def test_slots_are_written_in_turn_and_what_was_unpacked_stays() -> None:
    slots = packing.Slots(2)
    made = [clip(*toy_clip(seed, 2, 32, 2)) for seed in range(5)]
    packed, batches = [], []
    for one in made:
        slots.advance()
        packed.append(packing.collate([one], image_size=32, source="toy", slots=slots))
        batches.append(packed[-1].unpack())
    assert packed[0].frames.is_shared()
    assert len({p.frames.data_ptr() for p in packed}) == 2
    for one, batch in zip(made, batches):
        alone = collate([one], image_size=32, source="toy")
        assert torch.equal(batch.frames, alone.frames)
        assert torch.equal(batch.masks, alone.masks)


def test_a_batch_that_is_made_again_stays_in_its_slot_and_a_larger_one_gets_a_larger_slot() -> None:
    """However often a worker fails before a batch succeeds, it writes over nothing that it has handed over."""
    slots = packing.Slots(2)
    small, large = (clip(*toy_clip(seed, 2, 32, objects)) for seed, objects in ((0, 2), (1, 9)))
    slots.advance()
    handed = packing.collate([small], image_size=32, source="toy", slots=slots)
    before = handed.planes.clone()
    slots.advance()
    for one in (large, small, large, small):
        last = packing.collate([one], image_size=32, source="toy", slots=slots)
    assert torch.equal(handed.planes, before)
    assert last.frames.data_ptr() != handed.frames.data_ptr()
    assert last.frames.untyped_storage().nbytes() >= 2 * (3 + 2) * 32 * 32


def test_a_batch_travels_packed_eight_masks_to_a_byte() -> None:
    clips = [clip(*toy_clip(seed, 2, 32, objects)) for seed, objects in ((0, 9), (1, 3))]
    packed = packing.collate(clips, image_size=32, source="toy")
    assert packed.planes.shape == (2, 2 + 1, 32, 32)
    assert packed.planes.dtype == packed.frames.dtype == torch.uint8
    assert packed.unpack().masks.shape == (2, 12, 32, 32)
    assert torch.equal(packed.unpack().masks[:, 9:], collate(clips[1:], image_size=32, source="toy").masks)


@pytest.mark.parametrize("params", [AugmentParams(), AugmentParams(flip=True), AugmentParams(angle=20.0, shear=8.0)])
def test_a_view_is_the_same_picture_at_another_size(params: AugmentParams) -> None:
    """What a teacher of another image size is shown: drawn from the stored picture, turned and flipped as the student's."""
    frames, masks = toy_clip(0, 2, 160, 2)
    made = clip(frames, masks, params)
    batch = packing.collate([made], image_size=64, source="toy", views=(96,)).unpack()
    alone = collate([made], image_size=96, source="toy")
    assert batch.views[0].shape == (1, 2, 3, 96, 96)
    assert torch.equal(batch.frames_at(96), alone.frames)
    assert torch.equal(batch.frames, collate([made], image_size=64, source="toy").frames)
    smaller = torch.nn.functional.interpolate(batch.views[0][0].float(), (64, 64), mode="bilinear", antialias=True)
    assert (smaller - batch.frames[0].float()).abs().mean() < 6
    with pytest.raises(ValueError, match="drawn at 64, 96 px"):
        batch.frames_at(128)
