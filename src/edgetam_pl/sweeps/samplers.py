"""Which trial comes next: every point, points at random, or those that a model of the finished ones suggests (optuna)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgetam_pl.sweeps.report import Outcome
from edgetam_pl.sweeps.sweep_config import Parameter, Point, Sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def proposals(sweep: Sweep, outcomes: Callable[[], list[Outcome]]) -> Iterator[Point]:
    """Points in the order of their trials, `run_cap` of them at most. `outcomes` tells what is known when it is called."""
    if sweep.method == "bayes":
        return _suggested(sweep, outcomes)
    points = sweep.grid() if sweep.method == "grid" else _different(sweep)
    return itertools.islice(points, sweep.cap)


def _different(sweep: Sweep) -> Iterator[Point]:
    """Draws, each place once; as many as there are."""
    seen: set[tuple[str, ...]] = set()
    for point in sweep.draws():
        if point.words not in seen:
            seen.add(point.words)
            yield point
        if sweep.size and len(seen) == sweep.size:
            return


def _suggested(sweep: Sweep, outcomes: Callable[[], list[Outcome]]) -> Iterator[Point]:
    """Tree-structured Parzen estimation. Unfinished trials of an earlier start come first, and count."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {parameter.key: _distribution(parameter) for parameter in sweep.parameters}
    given: dict[str, Point] = {}
    for outcome in outcomes():
        point = _point_of(sweep, outcome)
        if point is not None:
            given[point.name] = point
    yield from list(given.values())[: sweep.cap]
    while len(given) < (sweep.cap or 0):
        sampler = optuna.samplers.TPESampler(seed=len(given), n_startup_trials=5, constant_liar=True)
        study = optuna.create_study(direction="maximize" if sweep.maximize else "minimize", sampler=sampler)
        for outcome in outcomes():
            point, value = _point_of(sweep, outcome), outcome.values.get(sweep.metric)
            if point is not None and value is not None:
                study.add_trial(optuna.trial.create_trial(params=dict(point.values), distributions=space, value=value))
        point = sweep.point(study.ask(space).params)
        if point.name in given:
            point = next(drawn for drawn in sweep.draws(seed=len(given)) if drawn.name not in given)
        given[point.name] = point
        yield point


def _point_of(sweep: Sweep, outcome: Outcome) -> Point | None:
    """The point of an earlier trial, or None where its words are of another space."""
    said = outcome.said
    values: dict[str, Any] = {}
    for parameter in sweep.parameters:
        if parameter.key not in said:
            return None
        text = said[parameter.key]
        known = {str(value): value for value in parameter.values}
        if parameter.values and text not in known:
            return None
        values[parameter.key] = (
            known[text] if known else (int(text) if parameter.distribution == "int_uniform" else float(text))
        )
    return sweep.point(values)


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.values:
        return CategoricalDistribution(parameter.values)
    if parameter.distribution == "int_uniform":
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.distribution == "log_uniform_values")
