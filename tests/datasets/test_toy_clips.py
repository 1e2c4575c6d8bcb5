"""Toy clips: exact, repeatable, and hard enough that tracking on them means something."""

from __future__ import annotations

import numpy as np
import pytest

from edgetam_pl.datasets.toy_clips import toy_clip


def test_the_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    frames, masks = toy_clip(7, 4, 64, 3)
    again, masks_again = toy_clip(7, 4, 64, 3)
    other, _ = toy_clip(8, 4, 64, 3)
    assert np.array_equal(frames, again)
    assert np.array_equal(masks, masks_again)
    assert not np.array_equal(frames, other)


def test_a_longer_clip_begins_with_the_shorter_one() -> None:
    short, short_masks = toy_clip(3, 2, 64, 2)
    long, long_masks = toy_clip(3, 6, 64, 2)
    assert np.array_equal(short, long[:2])
    assert np.array_equal(short_masks, long_masks[:2])


@pytest.mark.parametrize("num_objects", [1, 3, 8])
def test_shapes_dtypes_and_every_object_visible_at_first(num_objects: int) -> None:
    frames, masks = toy_clip(1, 3, (48, 80), num_objects)
    assert frames.shape == (3, 48, 80, 3)
    assert frames.dtype == np.uint8
    assert masks.shape == (3, num_objects, 48, 80)
    assert masks.dtype == bool
    assert masks[0].any(axis=(1, 2)).all()


def test_masks_are_exact_and_never_overlap() -> None:
    frames, masks = toy_clip(5, 6, 96, 3, camera=0.0)
    assert masks.sum(axis=1).max() == 1
    # where nothing ever is, a still camera sees the same scenery, up to the moving grain
    bare = ~masks.any(axis=(0, 1))
    spread = frames.astype(int)[:, bare].std(axis=0).mean()
    assert spread < 6
    inside = frames.astype(int)[:, masks.any(axis=(0, 1))].std(axis=0).mean()
    assert inside > 3 * spread


def test_objects_hide_one_another_and_some_leave_and_return() -> None:
    returned, hidden = 0, 0
    for seed in range(12):
        _, masks = toy_clip(seed, 32, 64, 3, speed=1.0)
        seen = masks.any(axis=(2, 3))  # (T, O)
        for track in seen.T:
            gone = np.flatnonzero(~track)
            returned += bool(len(gone) and track[gone[0] :].any())
        pairs = [(t, i, j) for t in range(0, 32, 4) for i in range(3) for j in range(3) if i != j]
        hidden += any((np.roll(masks[t, i], 1, 0) & masks[t, j]).any() for t, i, j in pairs)  # they touch
    assert returned >= 3
    assert hidden >= 6


def test_repeating_the_first_mask_is_a_poor_tracker() -> None:
    scores = []
    for seed in range(16):
        _, masks = toy_clip(seed, 16, 64, 3)
        union = (masks[1:] | masks[:1]).sum(axis=(2, 3))
        scores.append(np.where(union, (masks[1:] & masks[:1]).sum(axis=(2, 3)) / np.maximum(union, 1), 1.0).mean())
    assert np.mean(scores) < 0.5


def test_colours_tell_objects_apart() -> None:
    worst = []
    for seed in range(8):
        frames, masks = toy_clip(seed, 1, 96, 3)
        means = [frames[0][mask].mean(axis=0) for mask in masks[0]]
        means.append(frames[0][~masks[0].any(axis=0)].mean(axis=0))
        worst.append(min(np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]))
    assert np.median(worst) > 30


def test_a_request_that_cannot_be_met_says_what_is_needed() -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        toy_clip(0, 0, 64, 1)
