"""Maps of two grids are compared where they look at the same part of the picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgetam_pl.losses.distill import distance
from edgetam_pl.losses.match import RESAMPLE, FeatureMatch, resampled

PLACES = [(0.5, 0.5), (0.3, 0.7), (0.7, 0.35)]
"""(y, x) as shares of the picture."""


def _blob(side: int, place: tuple[float, float], width: float = 0.07) -> Tensor:
    """A smooth spot (1, 1, side, side) whose place in the picture is known, seen by tokens at their centres."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = (torch.exp(-(((centres - at) / width) ** 2) / 2) for at in place)
    return (y[:, None] * x[None])[None, None]


def _place(spot: Tensor) -> tuple[float, float]:
    """Centre of mass (y, x), as shares of the picture."""
    side = spot.shape[-1]
    centres, mass = (torch.arange(side) + 0.5) / side, spot[0, 0] / spot.sum()
    return float(mass.sum(1) @ centres), float(mass.sum(0) @ centres)


@pytest.mark.parametrize("kind", RESAMPLE)
@pytest.mark.parametrize(("theirs", "ours"), [(72, 64), (24, 16), (32, 16), (16, 24), (63, 16)])
@pytest.mark.parametrize("place", PLACES)
def test_a_spot_stays_at_its_place_in_the_picture(kind: str, theirs: int, ours: int, place: tuple[float, float]) -> None:
    """Within a twentieth of a token; aligned by corners, the spots off the centre would move by a fifth and more."""
    found = resampled(_blob(theirs, place), (ours, ours), kind)
    assert found.shape == (1, 1, ours, ours)
    for at, expected in zip(_place(found), place, strict=True):
        assert abs(at - expected) < 0.05 / ours


@pytest.mark.parametrize("kind", RESAMPLE)
def test_what_is_everywhere_equal_stays_so_and_an_equal_grid_is_left_alone(kind: str) -> None:
    flat = torch.full((2, 3, 72, 72), 1.5)
    torch.testing.assert_close(resampled(flat, (64, 64), kind), torch.full((2, 3, 64, 64), 1.5))
    map_ = torch.randn(1, 4, 16, 16)
    assert resampled(map_, (16, 16), kind) is map_


def test_area_is_the_mean_over_what_a_token_covers() -> None:
    """3 tokens to 2: the middle one counts half in each."""
    row = torch.tensor([1.0, 2.0, 6.0]).expand(1, 1, 3, 3)
    expected = torch.tensor([(1 + 0.5 * 2) / 1.5, (0.5 * 2 + 6) / 1.5])
    torch.testing.assert_close(resampled(row, (2, 2), "area"), expected.expand(1, 1, 2, 2))
    assert resampled(torch.randn(1, 2, 8, 8), (4, 4), "area").shape == (1, 2, 4, 4)


def test_grids_of_other_proportions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"72 x 64 tokens cannot be aligned with one of 64 x 64"):
        resampled(torch.zeros(1, 1, 72, 64), (64, 64))
    with pytest.raises(ValueError, match="resample is 'nearest'; use one of bilinear, area"):
        FeatureMatch(resample="nearest")


def test_equal_shapes_are_compared_as_in_the_paper() -> None:
    """Bit for bit the plain MSE, whatever the kind."""
    student, teacher = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for kind in RESAMPLE:
        match = FeatureMatch(resample=kind)
        assert not list(match.parameters())
        assert torch.equal(distance(*match(student, teacher, "f16"), "mse"), torch.nn.functional.mse_loss(student, teacher))


def test_other_channels_need_a_projection() -> None:
    student, teacher = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 12, 12)
    with pytest.raises(ValueError, match=r"\(4, 8, 8\), the teacher's \(6, 12, 12\).*stage.projection=linear"):
        FeatureMatch()(student, teacher, "f16")
    match = FeatureMatch(channels={"f16": (4, 6)})
    ours, theirs = match(student, teacher, "f16")
    assert ours.shape == theirs.shape == (1, 6, 8, 8)
    distance(ours, theirs, "mse").backward()
    assert all(parameter.grad is not None for parameter in match.parameters())


def test_a_projection_between_equal_widths_begins_as_none() -> None:
    student = torch.randn(2, 4, 8, 8)
    match = FeatureMatch(channels={"f16": (4, 4), "f_m": (4, 4)})
    torch.testing.assert_close(match(student, student, "f_m")[0], student)
