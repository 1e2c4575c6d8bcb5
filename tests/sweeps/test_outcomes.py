"""Configurations, Pareto fronts and reports of trials."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_points import outcome

from edgetam_pl.sweeps.outcomes import COSTS, front_cost, gather, pareto, read_outcomes
from edgetam_pl.sweeps.report import write_report


def test_seeds_are_one_configuration_and_what_varies_is_its_name() -> None:
    trials = [
        outcome(f"t{a}{s}", 50 + a + s, 1.0, "scale=toy", f"a={a}", f"seed={s}", f"out=x{a}{s}")
        for a in (0, 10)
        for s in (1, 2, 3)
    ]
    first, second = gather(trials, metric="trial/jf")
    assert (first.label, second.label) == ("a=0", "a=10")
    assert first.scores == [51, 52, 53]
    assert (first.mean, first.spread) == (52, 1)
    assert second.cost("trial/latency_ms/step") == 1.0
    assert second.cost("trial/parameters") is None


def test_the_front_is_what_nothing_beats_in_both() -> None:
    places = {"slow": (60.0, 9.0), "good": (60.0, 5.0), "poor": (50.0, 6.0), "fast": (40.0, 1.0), "even": (40.0, 1.0)}
    found = gather([outcome(name, *place, f"a={name}") for name, place in places.items()], metric="trial/jf")
    front = pareto(found, "trial/latency_ms/step", maximize=True)
    assert [c.label for c in front] == ["a=fast", "a=even", "a=good"]
    assert front_cost(found) == "trial/latency_ms/step"
    assert "trial/memory_tokens" in COSTS


def test_an_empty_folder_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trials"):
        write_report(tmp_path)
    (tmp_path / "trials" / "a").mkdir(parents=True)
    assert [found.status for found in read_outcomes(tmp_path)] == ["unfinished"]
    assert "| a | unfinished |  |" in write_report(tmp_path).read_text()
