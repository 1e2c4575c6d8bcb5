"""J and F against the golden values of the DAVIS-2017 toolkit, and against a plain reading of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgetam_pl.metrics.jf import JF, _boundary_words, pack, region_and_boundary, region_similarity, tolerance_radius


def rectangle(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """A mask with rows top ... bottom and columns left ... right set, both ends included."""
    mask = np.zeros(size, dtype=bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def unpack(words: np.ndarray, width: int) -> np.ndarray:
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=width, bitorder="little").view(np.bool_)


def boundary_map(mask: np.ndarray) -> np.ndarray:
    width = mask.shape[1]
    return unpack(_boundary_words(pack(mask)[None], width, first_word=0)[0], width)


TRUTH = rectangle(10, 39, 10, 49)
EMPTY_RECALL = np.zeros((60, 80), dtype=bool)


@pytest.mark.parametrize(
    ("prediction", "j", "f"),
    [
        (rectangle(12, 41, 13, 52), 75.9530792, 4.2857143),
        (rectangle(11, 40, 10, 49), 93.5483871, 100.0),
        (EMPTY_RECALL, 0.0, 0.0),
        (TRUTH, 100.0, 100.0),
    ],
)
def test_golden_values_of_one_frame(prediction: np.ndarray, j: float, f: float) -> None:
    assert 100 * region_similarity(prediction, TRUTH) == pytest.approx(j, abs=1e-7)
    assert 100 * region_and_boundary(prediction, TRUTH).f == pytest.approx(f, abs=1e-7)


def test_two_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    prediction, truth = np.stack([TRUTH, EMPTY_RECALL]), np.stack([TRUTH, EMPTY_RECALL])
    assert region_and_boundary(prediction, truth).j.mean() == region_and_boundary(prediction, truth).f.mean() == 1.0
    wrong = np.stack([TRUTH, TRUTH])
    assert region_and_boundary(wrong, truth).j.mean() == region_and_boundary(wrong, truth).f.mean() == 0.5


def test_objects_are_pooled_each_by_its_mean_over_frames() -> None:
    truth = np.stack([rectangle(10, 19, 10, 19), rectangle(30, 49, 40, 69)])  # (O, H, W)
    prediction = np.stack([rectangle(10, 19, 12, 21), rectangle(30, 49, 40, 69)])
    scores = region_and_boundary(prediction, truth)
    assert 100 * scores.j == pytest.approx([200 / 3, 100.0])
    assert 100 * scores.f == pytest.approx([55.0, 100.0])


def test_boundary_lies_above_and_left_of_the_object() -> None:
    boundary = boundary_map(rectangle(2, 4, 3, 6))
    assert boundary.sum() == 14
    rows, columns = np.nonzero(boundary)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 2, 6)


def test_the_last_row_looks_right_and_the_last_column_looks_down() -> None:
    full = np.ones((5, 7), dtype=bool)
    assert not boundary_map(full).any()  # an object that fills the image has no boundary
    corner = np.zeros((5, 7), dtype=bool)
    corner[4, 6] = True  # the last pixel: seen by its left, upper and upper-left neighbours, not by itself
    assert np.argwhere(boundary_map(corner)).tolist() == [[3, 5], [3, 6], [4, 5]]


@pytest.mark.parametrize(("height", "width", "radius"), [(480, 854, 8), (1080, 1920, 18), (60, 80, 1), (6000, 8000, 80)])
def test_tolerance_is_a_ceiling_of_the_diagonal(height: int, width: int, radius: int) -> None:
    assert tolerance_radius(height, width) == radius


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 1), (37, 63), (40, 64), (41, 65), (64, 128), (50, 131)])
@pytest.mark.parametrize("tolerance", [0.0, 0.008, 0.1, 2.0])
def test_words_give_what_the_definition_gives(size: tuple[int, int], tolerance: float) -> None:
    rng = np.random.default_rng(sum(size))
    for density in (0.01, 0.3, 0.9):
        prediction, truth = rng.random((2, *size)) < density
        # Structured masks too: a block with noise, which touches the edges of image and words.
        for a, b in ((prediction, truth), (_blot(rng, size), _blot(rng, size))):
            scores = region_and_boundary(a, b, tolerance=tolerance)
            radius = tolerance_radius(*size, tolerance=tolerance)
            assert scores.j == pytest.approx(_plain_region(a, b), abs=1e-12)
            assert scores.f == pytest.approx(_plain_boundary(a, b, radius), abs=1e-12)
            assert np.array_equal(boundary_map(a), _plain_map(a))


def test_a_radius_beyond_one_word_is_exact() -> None:
    size = (9, 400)
    prediction, truth = np.zeros((2, *size), dtype=bool)
    prediction[4, 100], truth[4, 300] = True, True
    for radius in (150, 197, 198, 199, 200, 201, 203):
        tolerance = (radius - 0.5) / math.hypot(*size)
        assert tolerance_radius(*size, tolerance=tolerance) == radius
        expected = _plain_boundary(prediction, truth, radius)
        assert region_and_boundary(prediction, truth, tolerance=tolerance).f == pytest.approx(expected, abs=1e-12)


def test_any_leading_shape_is_kept() -> None:
    masks = np.random.default_rng(0).random((3, 2, 20, 30)) < 0.2
    assert region_similarity(masks, masks).shape == region_and_boundary(masks, masks).f.shape == (3, 2)
    assert region_similarity(masks[0, 0], masks[0, 0]).shape == ()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_labels_count_as_set_when_they_are_not_zero(dtype: type) -> None:
    assert region_similarity((TRUTH * 7).astype(dtype) / dtype(2), TRUTH) == 1.0


def test_packing_and_unpacking_is_the_identity() -> None:
    mask = np.random.default_rng(1).random((5, 130)) < 0.5
    assert np.array_equal(unpack(pack(mask), 130), mask)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="twice the same"):
        region_similarity(TRUTH, TRUTH[:-1])


def test_metric_averages_objects_not_videos() -> None:
    metric = JF()
    one = torch.from_numpy(TRUTH)[None, None].expand(4, 1, -1, -1)
    three = torch.from_numpy(TRUTH)[None, None].expand(2, 3, -1, -1)
    metric.update_masks(one, one)
    metric.update_masks(torch.zeros_like(three), three)
    assert metric.compute()["jf"].item() == pytest.approx(25.0)  # one object of four is right


def test_metric_of_two_ranks_reduces_even_when_one_saw_nothing() -> None:
    busy, idle = JF(), JF()
    masks = torch.from_numpy(TRUTH)[None, None]
    busy.update_masks(masks, masks)
    for name in ("sum_j", "sum_f", "num_objects"):  # what torchmetrics does with states that reduce by summing
        setattr(idle, name, torch.stack([getattr(busy, name), getattr(idle, name)]).sum())
    idle._update_count = 1
    assert idle.compute()["jf"].item() == 100.0


def test_metric_without_any_object_is_not_a_number() -> None:
    metric = JF()
    metric.update([], [])
    assert math.isnan(metric.compute()["jf"].item())


def test_metric_refuses_a_video_without_a_scored_frame() -> None:
    with pytest.raises(ValueError, match="No frame to score"):
        JF().update_masks(torch.zeros(0, 1, 4, 4, dtype=torch.bool), torch.zeros(0, 1, 4, 4, dtype=torch.bool))


def _blot(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    y, x = sorted(rng.integers(0, size[0] + 1, 2)), sorted(rng.integers(0, size[1] + 1, 2))
    mask[y[0] : y[1], x[0] : x[1]] = True
    return mask ^ (rng.random(size) < 0.02)


def _plain_map(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            right = x + 1 < width and bool(mask[y, x + 1])
            below = y + 1 < height and bool(mask[y + 1, x])
            diagonal = x + 1 < width and y + 1 < height and bool(mask[y + 1, x + 1])
            here = bool(mask[y, x])
            if y == height - 1 and x == width - 1:
                continue
            if y == height - 1:
                boundary[y, x] = here != right
            elif x == width - 1:
                boundary[y, x] = here != below
            else:
                boundary[y, x] = here != right or here != below or here != diagonal
    return boundary


def _plain_region(prediction: np.ndarray, truth: np.ndarray) -> float:
    union = (prediction | truth).sum()
    return float((prediction & truth).sum() / union) if union else 1.0


def _plain_boundary(prediction: np.ndarray, truth: np.ndarray, radius: int) -> float:
    found, wanted = np.argwhere(_plain_map(prediction)), np.argwhere(_plain_map(truth))
    if not len(found) or not len(wanted):
        return float(len(found) == len(wanted))
    near = ((found[:, None] - wanted[None]) ** 2).sum(-1) <= radius * radius
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
