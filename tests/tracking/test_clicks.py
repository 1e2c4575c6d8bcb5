"""Clicks and boxes: inside what they should be inside, uniform, and the release's answers where nothing is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgetam_pl.tracking.clicks import centre_click, noisy_box, tight_box, uniform_click
from edgetam_pl.types import Prompts

SIDE = 16


def _rectangle(top: int, bottom: int, left: int, right: int, side: int = SIDE) -> Tensor:
    """(1, S, S) bool; all four edges included."""
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, top : bottom + 1, left : right + 1] = True
    return mask


def _click(prompts: Prompts) -> tuple[int, int, int]:
    """(x, y, label) of the only click."""
    assert prompts.points is not None
    assert prompts.labels is not None
    x, y = prompts.points[0, 0].tolist()
    return int(x), int(y), int(prompts.labels[0, 0])


def _corners(prompts: Prompts, row: int = 0) -> list[float]:
    assert prompts.points is not None
    return prompts.points[row].flatten().tolist()


def test_every_click_lies_in_the_error_and_says_what_is_wrong(generator: torch.Generator) -> None:
    truth, predicted = _rectangle(2, 9, 3, 8), _rectangle(5, 12, 3, 8)
    for _ in range(200):
        x, y, label = _click(uniform_click(truth, predicted, generator=generator))
        assert truth[0, y, x] != predicted[0, y, x]
        assert label == int(truth[0, y, x])


def test_clicks_are_uniform_over_missed_and_extra_pixels_together(generator: torch.Generator) -> None:
    truth, predicted = _rectangle(0, 0, 0, 2, side=4), _rectangle(3, 3, 3, 3, side=4)
    rounds = 4000
    many = uniform_click(truth.expand(rounds, 4, 4), predicted.expand(rounds, 4, 4), generator=generator)
    assert many.points is not None
    place = (many.points[:, 0, 1] * 4 + many.points[:, 0, 0]).long()
    share = torch.bincount(place, minlength=16) / rounds
    assert share.nonzero().flatten().tolist() == [0, 1, 2, 15]
    # Standard deviation of a share of 1/4 in 4000 draws: 0.007.
    assert (share[[0, 1, 2, 15]] - 0.25).abs().max() < 0.03


def test_objects_are_clicked_independently_of_one_another(generator: torch.Generator) -> None:
    truth = torch.cat([_rectangle(0, 3, 0, 3), torch.zeros(1, SIDE, SIDE, dtype=torch.bool), _rectangle(9, 15, 9, 15)])
    prompts = uniform_click(truth, torch.zeros_like(truth), generator=generator)
    assert prompts.points is not None
    assert prompts.labels is not None
    assert prompts.points.shape == (3, 1, 2)
    assert prompts.points.dtype == torch.float32
    assert prompts.labels.flatten().tolist() == [1, 0, 1]
    assert (prompts.points[0] <= 3).all()
    assert (prompts.points[2] >= 9).all()


def test_nothing_wrong_gives_a_background_click_outside_the_object(generator: torch.Generator) -> None:
    truth = _rectangle(0, 15, 0, 14)
    for _ in range(50):
        x, _, label = _click(uniform_click(truth, truth, generator=generator))
        assert (x, label) == (15, 0)


def test_nothing_wrong_with_an_object_that_fills_the_image_gives_a_background_click_in_the_corner(
    generator: torch.Generator,
) -> None:
    full = _rectangle(0, 15, 0, 15)
    assert _click(uniform_click(full, full, generator=generator)) == (0, 0, 0)


def test_the_first_and_the_last_pixel_can_be_clicked(generator: torch.Generator) -> None:
    for corner in (_rectangle(0, 0, 0, 0), _rectangle(15, 15, 15, 15)):
        x, y, label = _click(uniform_click(corner, torch.zeros_like(corner), generator=generator))
        assert (bool(corner[0, y, x]), label) == (True, 1)


def test_the_same_seed_gives_the_same_clicks() -> None:
    truth = torch.rand(3, SIDE, SIDE) > 0.5
    a, b, c = (uniform_click(truth, ~truth, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert a.points is not None
    assert torch.equal(a.points, b.points)
    assert not torch.equal(a.points, c.points)


def test_the_centre_click_is_farthest_from_the_border_of_the_larger_error() -> None:
    truth = _rectangle(2, 8, 3, 9)  # 7 x 7, missed
    predicted = _rectangle(12, 14, 12, 14)  # 3 x 3, extra
    assert _click(centre_click(truth, predicted)) == (6, 5, 1)
    assert _click(centre_click(predicted, truth)) == (6, 5, 0)


def test_the_image_border_is_a_border_for_the_centre_click() -> None:
    assert _click(centre_click(_rectangle(0, 4, 0, 4), torch.zeros(1, SIDE, SIDE, dtype=torch.bool))) == (2, 2, 1)


def test_equal_errors_are_clicked_as_background() -> None:
    assert _click(centre_click(_rectangle(1, 3, 1, 3), _rectangle(9, 11, 9, 11))) == (10, 10, 0)


def test_nothing_wrong_gives_a_background_centre_click_in_the_corner() -> None:
    same = _rectangle(4, 8, 4, 8)
    assert _click(centre_click(same, same)) == (0, 0, 0)


def test_the_centre_click_takes_one_of_several_objects_at_a_time() -> None:
    truth = torch.cat([_rectangle(0, 4, 0, 4), _rectangle(10, 14, 8, 12)])
    points = centre_click(truth, torch.zeros_like(truth)).points
    assert points is not None
    assert points[:, 0].tolist() == [[2, 2], [10, 12]]


def test_a_tight_box_has_inclusive_corners_and_the_labels_of_a_box() -> None:
    box = tight_box(_rectangle(2, 5, 3, 9))
    assert _corners(box) == [3, 2, 9, 5]
    assert box.labels is not None
    assert box.labels.tolist() == [[2, 3]]
    assert box.num_points == 2


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_box_of_nothing_is_inside_out(noise: float, generator: torch.Generator) -> None:
    nothing = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    assert _corners(tight_box(nothing)) == [15, 15, 0, 0]
    assert _corners(noisy_box(nothing, generator=generator, noise=noise)) == [15, 15, 0, 0]


def test_box_noise_is_a_tenth_of_the_side_each_way(generator: torch.Generator) -> None:
    mask = _rectangle(40, 60, 100, 140, side=256)
    exact = torch.tensor([100.0, 40.0, 140.0, 60.0])
    moved = torch.tensor([_corners(noisy_box(mask, generator=generator)) for _ in range(500)]) - exact
    assert (moved.abs().amax(dim=0) <= torch.tensor([4.0, 2.0, 4.0, 2.0]) + 1e-4).all()
    assert (moved.amax(dim=0) > torch.tensor([3.5, 1.7, 3.5, 1.7])).all()
    assert (moved.amin(dim=0) < -torch.tensor([3.5, 1.7, 3.5, 1.7])).all()


def test_box_noise_is_at_most_twenty_pixels_and_stays_in_the_image(generator: torch.Generator) -> None:
    wide = _rectangle(0, 511, 200, 511, side=512)
    moved = torch.tensor([_corners(noisy_box(wide, generator=generator)) for _ in range(300)])
    assert moved.min() >= 0
    assert moved.max() <= 511
    assert (moved[:, 0] - 200).abs().max() <= 20
    assert (moved[:, 0] - 200).abs().max() > 18
