"""The numbers of the gate: what they measure, which way their bounds point, and how far a drift is excused."""

from __future__ import annotations

import math

import pytest
import torch

from edgetam_pl.config import GateConfig, Tolerance
from edgetam_pl.exporting.gate.comparing_tracker import Drift
from edgetam_pl.exporting.gate.measures import Measure, Verdict, iou, psnr, relative_error
from edgetam_pl.exporting.gate.rollouts import FREE, LEAST_OVERLAP, drift_bounds
from edgetam_pl.types import Decoded

BOUNDS = Tolerance(free=0.1, iou=0.95)


def drift(error: float, overlap: float) -> Drift:
    empty = torch.zeros(1, 1)
    return Drift(0, error, 50.0, overlap, Decoded(empty[None, None], empty, empty, empty, None))


def test_errors_are_shares_of_the_largest_true_value() -> None:
    truth = torch.tensor([1.0, -4.0])
    assert relative_error(truth + torch.tensor([0.0, 0.4]), truth) == pytest.approx(0.1)
    assert relative_error(torch.tensor([0.001]), torch.tensor([0.0]), least=1.0) == pytest.approx(0.001)
    assert psnr(truth + 0.04, truth) == pytest.approx(40.0, abs=1e-4)
    assert psnr(truth, truth) == 200.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_passes_nothing(bad: float) -> None:
    truth, value = torch.ones(2), torch.tensor([1.0, bad])
    assert relative_error(value, truth) == math.inf
    assert psnr(value, truth) == -math.inf
    assert not Measure("A", "x", "error", math.nan, 1.0).ok
    assert not Measure("A", "x", "IoU", math.nan, 0.0, at_least=True).ok


def test_masks_of_a_few_pixels_may_differ_in_a_few() -> None:
    one, two = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    one[0, 0] = two[0, 1] = True
    assert iou(one, two) == 0.0
    assert iou(one, two, pixels=2) == 1.0
    assert iou(one & two, one & two) == 1.0


def test_a_verdict_names_part_place_and_number_and_keeps_the_worst_of_each() -> None:
    verdict = Verdict()
    verdict += [Measure("A", "frame 1", "error", 0.1, 0.2), Measure("A", "frame 2", "error", 0.3, 0.2)]
    verdict += [Measure("A", "frame 1", "IoU", 0.9, 0.95, True), Measure("A", "frame 2", "IoU", 0.99, 0.95, True)]
    assert [str(measure) for measure in verdict.failures] == [
        "A, frame 2: error is 0.3, must be at most 0.2",
        "A, frame 1: IoU is 0.9, must be at least 0.95",
    ]
    assert {key: measure.where for key, measure in verdict.worst().items()} == {"A error": "frame 2", "A IoU": "frame 1"}


def test_without_an_excuse_every_frame_keeps_the_bounds_of_the_tolerance() -> None:
    found = drift_bounds([drift(9.0, 0.0)] * 3, BOUNDS, None, 3.0)
    assert found == [(0.1, 0.95, FREE)] * 3
    assert drift_bounds([drift(0.0, 1.0)], Tolerance(iou=1.01), None, 3.0)[0].iou == 1.01  # whatever was asked for


def test_a_model_that_amplifies_rounding_widens_the_bounds_from_there_on() -> None:
    own = [drift(0.0, 1.0), drift(0.2, 0.9), drift(0.0, 1.0)]
    first, second, third = drift_bounds([drift(0.0, 1.0)] * 3, BOUNDS, own, 3.0)
    assert first == (0.1, 0.95, FREE)
    assert second[:2] == (pytest.approx(0.6), pytest.approx(0.7))
    assert third == second  # what was lost once may stay lost
    assert "3 x torch's own drift with rounded weights" in second.why


def test_a_model_that_hardly_drifts_excuses_nothing() -> None:
    assert drift_bounds([drift(9.0, 0.0)], BOUNDS, [drift(0.01, 0.99)], 3.0) == [(0.1, 0.95, FREE)]


def test_no_drift_excuses_another_mask() -> None:
    (found,) = drift_bounds([drift(9.0, 0.0)], BOUNDS, [drift(5.0, 0.0)], 3.0)
    assert found.iou == LEAST_OVERLAP == 0.5


def test_bounds_of_single_steps_are_the_tighter_ones() -> None:
    gate = GateConfig()
    for tolerance in (gate.exact, gate.half, gate.eight_bits, gate.few_bits):
        assert tolerance.step <= tolerance.free
        assert tolerance.step_iou >= tolerance.iou
    assert gate.exact.part < gate.half.part < gate.eight_bits.part < gate.few_bits.part
