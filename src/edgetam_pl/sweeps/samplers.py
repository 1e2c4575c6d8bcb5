"""Which trial comes next: every point, points at random, or those that optuna's TPE suggests after the finished ones.

optuna draws and suggests; what is known is read from the trials' folders each time, not from a storage of optuna. The
folders are the record anyway (a trial may finish after its runner was killed, be run by hand, or by an agent of W&B), and a
stored study refuses the most common change of a sweep, one more value in a list ("CategoricalDistribution does not support
dynamic value space"); here the sweep continues with what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edgetam_pl.sweeps.outcomes import Outcome
from edgetam_pl.sweeps.sweep_config import Choice, Point, Space, Sweep

if TYPE_CHECKING:  # a second to import, and a grid needs none of it
    from optuna.distributions import BaseDistribution


def proposals(sweep: Sweep, outcomes: Callable[[], list[Outcome]]) -> Iterator[Point]:
    """Points in the order of their trials, `run_cap` of them at most. `outcomes` reads what is known when it is called."""
    if sweep.method == "bayes":
        points = _suggested(sweep, outcomes)
    else:
        points = sweep.grid() if sweep.method == "grid" else _different(draws(sweep), limit=sweep.size)
    return itertools.islice(points, sweep.cap)


def draws(sweep: Sweep, seed: int = 0) -> Iterator[Point]:
    """Points at random without end; the same ones for the same seed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, space = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)), _distributions(sweep)
    while True:
        yield sweep.point(study.ask(space).params)


def _different(points: Iterable[Point], *, limit: int) -> Iterator[Point]:
    """Each point once; where the space has an end (`limit`), until all have come."""
    seen: set[str] = set()
    for point in points:
        if point.name not in seen:
            seen.add(point.name)
            yield point
        if limit and len(seen) == limit:
            return


def _suggested(sweep: Sweep, outcomes: Callable[[], list[Outcome]]) -> Iterator[Point]:
    """Trials of an earlier start first (unfinished ones continue), then one suggestion after another, none twice."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = _distributions(sweep)
    earlier = (_point_of(sweep, outcome) for outcome in outcomes())
    given = {point.name: point for point in earlier if point is not None}
    yield from list(given.values())
    while not sweep.size or len(given) < sweep.size:
        # a study of what is finished by now; its seed is the number of trials, so a restart suggests the same
        sampler = optuna.samplers.TPESampler(seed=len(given), n_startup_trials=5, constant_liar=True)
        study = optuna.create_study(direction="maximize" if sweep.maximize else "minimize", sampler=sampler)
        for outcome in outcomes():
            known, value = _point_of(sweep, outcome), outcome.values.get(sweep.metric)
            if known is not None and value is not None:
                study.add_trial(optuna.trial.create_trial(params=dict(known.values), distributions=space, value=value))
        point = sweep.point(study.ask(space).params)
        if point.name in given:
            point = next(drawn for drawn in draws(sweep, seed=len(given)) if drawn.name not in given)
        given[point.name] = point
        yield point


def _point_of(sweep: Sweep, outcome: Outcome) -> Point | None:
    """The point of an earlier trial, or None where its words are of another space."""
    try:
        return sweep.point({key: _value(space, outcome.by_key[key]) for key, space in sweep.space.items()})
    except (KeyError, ValueError):
        return None


def _value(space: Space, text: str) -> Any:
    """The value that a word spells. Raises KeyError or ValueError where the space has none."""
    if isinstance(space, Choice):
        return {str(value): value for value in space.values}[text]
    value = int(text) if space.whole else float(text)
    if not space.low <= value <= space.high:
        raise ValueError(f"{text} is outside of {space.low} to {space.high}")
    return value


def _distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """The space in optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, space in sweep.space.items():
        if isinstance(space, Choice):
            found[key] = CategoricalDistribution(space.values)
        elif space.whole:
            found[key] = IntDistribution(int(space.low), int(space.high))
        else:
            found[key] = FloatDistribution(space.low, space.high, log=space.log)
    return found
