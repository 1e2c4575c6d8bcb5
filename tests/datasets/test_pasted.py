"""Clips pasted together from images: exact, repeatable, later objects over earlier ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.layout import AnnotatedFrame, open_layout
from edgetam_pl.datasets.layouts import pasted
from edgetam_pl.datasets.pasted_clips import Cutout, pasted_clip

RED, BLUE = (200, 0, 0), (0, 0, 200)


def square(colour: tuple[int, int, int]) -> Cutout:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:] = colour
    mask = np.zeros((60, 60), bool)
    mask[15:45, 15:45] = True
    return Cutout.of(image, mask)


def clip(seed: int, *colours: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    background = np.full((80, 120, 3), 90, np.uint8)
    return pasted_clip(np.random.default_rng(seed), background, [square(colour) for colour in colours], 6, 64)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    (frames, masks), (again, masks_again), (other, _) = clip(1, RED), clip(1, RED), clip(2, RED)
    assert frames.shape == (6, 64, 96, 3)
    assert np.array_equal(frames, again)
    assert np.array_equal(masks, masks_again)
    assert not np.array_equal(frames, other)


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_exact_and_keep_the_identity_of_objects(seed: int) -> None:
    frames, masks = clip(seed, RED, BLUE)
    assert masks[0].any(axis=(1, 2)).all()
    assert masks.sum(axis=1).max() == 1  # never two objects in one pixel
    for t in range(6):
        for o, channel in enumerate((0, 2)):
            inside = cv2.erode(masks[t, o].astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0) > 0
            colours = frames[t][inside].astype(int)
            assert (colours[:, channel] > colours[:, 2 - channel] + 50).all()
        far = cv2.dilate(masks[t].any(axis=0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
        bare = np.ptp(frames[t][far].astype(int), axis=1)  # the background is grey
        assert bare.max(initial=0) < 120  # a moving object's trail covers less than half of any pixel outside of its mask
        assert bare.mean() < 2


def test_a_later_object_covers_an_earlier_one() -> None:
    for seed in range(20):  # the same paths with and without the second object on top
        (_, alone), (_, both) = clip(seed, RED), clip(seed, RED, BLUE)
        assert alone.shape[1] == 1
        assert not (both[:, 0] & both[:, 1]).any()
    touching = [both for seed in range(20) if (both := clip(seed, RED, BLUE)[1])[0, 1].any()]
    sizes = [(both[0, 0].sum(), both[0, 1].sum()) for both in touching]
    assert any(first < 0.7 * second for first, second in sizes)


def image_set(folder: Path, share: float) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    side = int(64 * share**0.5)
    for number in range(3):
        picture = np.full((64, 64, 3), 60 * number, np.uint8)
        labels = np.zeros((64, 64), np.uint8)
        labels[5 : 5 + side, 5 : 5 + side] = 1
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), labels)
    return folder


def test_image_sets_become_clips_the_same_in_any_order(tmp_path: Path) -> None:
    root = f"{image_set(tmp_path / 'a', 0.2)}:{image_set(tmp_path / 'b', 0.3)}"
    reader = open_layout(ShardsConfig(source="pasted", root=root, clips=3, frames=4, size=48, objects=2))
    assert reader.names() == ["pasted-000000", "pasted-000001", "pasted-000002"]
    later = list(reader.clip("pasted-000002").annotated_frames())
    list(reader.clip("pasted-000000").annotated_frames())
    for one, again in zip(later, reader.clip("pasted-000002").annotated_frames(), strict=True):
        assert isinstance(one, AnnotatedFrame)
        assert isinstance(again, AnnotatedFrame)
        assert np.array_equal(one.image, again.image)
        assert one.masks.keys() == again.masks.keys()


def test_twins_are_one_object_with_two_names(tmp_path: Path) -> None:
    root = str(image_set(tmp_path / "a", 0.2))

    def cutouts(twins: float) -> list[Cutout]:
        drawn: list[Cutout] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                pasted, "pasted_clip", lambda _rng, _background, given, *sizes: drawn.extend(given) or clip(0, RED)
            )
            reader = open_layout(ShardsConfig(source="pasted", root=root, clips=8, objects=3, twins=twins))
            for name in reader.names():
                reader.clip(name)
                drawn.append(square(RED))  # between two clips
        return drawn

    assert all(a is not b for a, b in pairwise(cutouts(0.0)))
    assert sum(a is b for a, b in pairwise(cutouts(1.0))) >= 4, "every object of a clip after its first"


def test_what_cannot_be_pasted_is_said_with_the_cure(tmp_path: Path) -> None:
    small = image_set(tmp_path / "small", 0.005)
    with pytest.raises(ValueError, match="Give pictures with larger objects"):
        open_layout(ShardsConfig(source="pasted", root=str(small)))
    (tmp_path / "bare" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no folder masks"):
        open_layout(ShardsConfig(source="pasted", root=str(tmp_path / "bare")))
    with pytest.raises(ValueError, match="root=FOLDER"):
        open_layout(ShardsConfig(source="pasted"))
    with pytest.raises(ValueError, match=r"twins=1\.5: expected a probability"):
        open_layout(ShardsConfig(source="pasted", root=str(small), twins=1.5))
    for growth in (0.9, 9.0):
        with pytest.raises(ValueError, match=rf"growth={growth}: expected a factor, 1 \(objects keep their size\) to 8\."):
            open_layout(ShardsConfig(source="pasted", root=str(small), growth=growth))


def test_growth_bounds_how_much_larger_and_smaller_an_object_becomes(tmp_path: Path) -> None:
    """The square is whole in every frame that counts: its sides, and so its area, tell how much it has grown."""

    def ratios(growth: float) -> list[float]:
        """Largest over smallest area within each of some clips, of frames in which the object does not touch the border."""
        found = []
        for seed in range(30):
            background = np.zeros((64, 64, 3), np.uint8)
            masks = pasted_clip(np.random.default_rng(seed), background, [square(RED)], 24, 64, growth)[1][:, 0]
            inside = masks.any(axis=(1, 2)) & ~masks[:, [0, -1]].any(axis=(1, 2)) & ~masks[:, :, [0, -1]].any(axis=(1, 2))
            if inside.sum() > 3:
                areas = masks[inside].sum(axis=(1, 2))
                found.append(float(areas.max() / areas.min()))
        return found

    assert len(ratios(1.0)) > 10
    assert max(ratios(1.0)) < 2  # shear, bends and rounding to pixels alone
    assert max(ratios(4.0)) > 4
