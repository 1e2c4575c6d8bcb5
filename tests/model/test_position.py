"""Positions: the released numbers, identity rows, and two layouts of one rotation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgetam_pl.model.position import FourierPositions, Rotation, rotate, rotation_table, sine_map, sine_of_age


def test_the_sine_map_has_the_released_numbers() -> None:
    expected = {  # (y, x): channels; D = 8, 2 rows, 3 columns
        (0, 0): [1e-06, -1.0, 0.031411, 0.999507, 0.866026, -0.499999, 0.020942, 0.999781],
        (0, 2): [1e-06, -1.0, 0.031411, 0.999507, -2e-06, 1.0, 0.06279, 0.998027],
        (1, 1): [-3e-06, 1.0, 0.06279, 0.998027, -0.866025, -0.500001, 0.041876, 0.999123],
    }
    found = sine_map(2, 3, 8)
    assert found.shape == (8, 2, 3)
    for (y, x), channels in expected.items():
        torch.testing.assert_close(found[:, y, x], torch.tensor(channels), atol=2e-6, rtol=0)


def test_the_sine_map_spans_the_same_range_on_every_grid() -> None:
    torch.testing.assert_close(sine_map(4, 4, 8)[:, -1, -1], sine_map(64, 64, 8)[:, -1, -1])


def test_ages_are_coded_as_sines_then_cosines() -> None:
    expected = [
        0.4794255495,
        0.4794255495,
        0.0049999789,
        0.0049999789,
        0.8775825501,
        0.8775825501,
        0.9999874830,
        0.9999874830,
    ]
    torch.testing.assert_close(sine_of_age(torch.tensor([0.5]), 8)[0], torch.tensor(expected))
    past, future = sine_of_age(torch.tensor([0.3, -0.3]), 8)
    assert torch.equal(past[:4], -future[:4])  # the sign of an age is seen


def test_rotations_follow_columns_in_the_first_half_and_rows_in_the_second() -> None:
    table = rotation_table((2, 3), 16)
    phases = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]).float()  # x, y of each token, row by row
    frequencies = torch.tensor([1, 0.1, 0.01, 0.001])
    expected = torch.cat((phases[:, :1] * frequencies, phases[:, 1:] * frequencies), dim=1)
    torch.testing.assert_close(table.cos, expected.cos())
    torch.testing.assert_close(table.sin, expected.sin())


def test_a_coarser_grid_keeps_its_integers() -> None:
    """EdgeTAM's keys at (3, 5) of a 16 x 16 grid turn by x = 5 and y = 3, and global latents not at all."""
    table = rotation_table((16, 16), 256, non_spatial=256)
    assert (table.cos[:257] == 1).all()
    assert (table.sin[:257] == 0).all()
    row = 256 + 3 * 16 + 5
    assert math.isclose(float(table.cos[row, 0]), math.cos(5), abs_tol=1e-6)
    assert math.isclose(float(table.cos[row, 64]), math.cos(3), abs_tol=1e-6)


def test_rotation_multiplies_neighbouring_pairs_as_complex_numbers(generator: torch.Generator) -> None:
    x = torch.randn(2, 1, 6, 16, generator=generator)
    table = rotation_table((2, 3), 16)
    turn = torch.complex(table.cos, table.sin)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)
    torch.testing.assert_close(rotate(x, table), expected)


def test_half_split_pairs_turn_alike(generator: torch.Generator) -> None:
    x = torch.randn(1, 1, 6, 16, generator=generator)
    order = torch.cat((torch.arange(0, 16, 2), torch.arange(1, 16, 2)))
    table = rotation_table((2, 3), 16)
    torch.testing.assert_close(rotate(x[..., order], table, interleaved=False), rotate(x, table)[..., order])


def test_identity_rows_leave_tokens_alone_and_the_dtype_stays(generator: torch.Generator) -> None:
    x = torch.randn(1, 1, 3, 8, generator=generator).bfloat16()
    assert torch.equal(rotate(x, Rotation(torch.ones(3, 4), torch.zeros(3, 4))), x)


def test_fourier_features_follow_their_formula() -> None:
    positions = FourierPositions(8, (2, 3))
    point = torch.tensor([[0.25, 0.75]])
    phase = 2 * math.pi * ((2 * point - 1) @ positions.matrix)
    torch.testing.assert_close(positions(point), torch.cat((phase.sin(), phase.cos()), dim=1))
    centre = positions(torch.tensor([[(2 + 0.5) / 3, (1 + 0.5) / 2]]))  # column 2, row 1
    torch.testing.assert_close(positions.grid[1 * 3 + 2], centre[0])


def test_the_grid_of_fourier_features_follows_loaded_weights() -> None:
    a, b = FourierPositions(8, (2, 2)), FourierPositions(8, (2, 2))
    parent = torch.nn.Sequential(b)
    parent.load_state_dict(torch.nn.Sequential(a).state_dict())
    assert torch.equal(a.grid, b.grid)


@pytest.mark.parametrize("make", [lambda: sine_map(2, 2, 6), lambda: rotation_table((2, 2), 6)])
def test_a_width_that_is_no_multiple_of_4_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="multiple of 4"):
        make()


def test_positions_keep_full_precision_under_autocast() -> None:
    positions = FourierPositions(8, (2, 2))
    point: Tensor = torch.tensor([[1000.5 / 1024, 0.5]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(positions(point), positions(point.clone()))
        inside = positions(point)
    torch.testing.assert_close(inside, positions(point), atol=0, rtol=0)
