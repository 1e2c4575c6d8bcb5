"""Which trial comes next: draws that repeat, and suggestions after what is known."""

from __future__ import annotations

import itertools

from sweep_points import outcome, sweep

from edgetam_pl.sweeps.samplers import draws, proposals
from edgetam_pl.sweeps.sweep_config import Sweep


def test_draws_stay_in_their_range_and_repeat() -> None:
    ranges: dict[str, dict[str, object]] = {"i": {"min": 1, "max": 3}, "x": {"min": 0.5, "max": 1.0}}
    ranges["l"] = {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"}
    drawn = list(itertools.islice(draws(sweep(ranges)), 50))
    assert {point.values["i"] for point in drawn} == {1, 2, 3}
    assert all(0.5 <= p.values["x"] <= 1 and 1e-4 <= p.values["l"] <= 1e-2 for p in drawn)
    assert drawn == list(itertools.islice(draws(sweep(ranges)), 50))
    assert next(draws(sweep({"v": {"value": 7}}))).values == {"v": 7}


def test_an_extended_sweep_runs_what_is_new() -> None:
    """With a value more, and a range that is narrower, earlier trials count where they still belong to the space."""

    def space(values: list[int], most: int) -> Sweep:
        return sweep({"a": {"values": values}, "b": {"min": 1, "max": most}}, method="bayes")

    known = [outcome("one", 50.0, 1.0, "scale=toy", "a=1", "b=2"), outcome("two", 60.0, 1.0, "scale=toy", "a=1", "b=9")]
    first, *new = itertools.islice(proposals(space([1, 2], 5), lambda: known), 4)
    assert first.values == {"a": 1, "b": 2}
    assert len({point.name for point in new} - {first.name}) == 3
    assert all(point.values["b"] <= 5 for point in new)
    few = sweep({"a": {"values": [1, 2, 3]}}, method="bayes")
    assert {point.values["a"] for point in proposals(few, lambda: [])} == {1, 2, 3}  # a small space ends, whatever the cap
