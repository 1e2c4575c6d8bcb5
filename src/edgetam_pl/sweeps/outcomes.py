"""What became of the trials of a sweep: outcomes read from their folders, configurations (seeds together), Pareto fronts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetam_pl.sweeps.trial import FAILURE, RECORD, WORDS, flat

SEED = "seed"

COSTS: Mapping[str, str] = {
    "trial/latency_ms/step": "step ms",
    "trial/processor_ms/step": "step cpu ms",
    "trial/gflops/total": "GFLOPs",
    "trial/memory_tokens": "tokens a memory",
    "trial/parameters": "parameters",
    "trial/package_bytes": "package bytes",
}
"""What a configuration may cost, and how the table calls it. Less is better."""

FRONTS = ("trial/processor_ms/step", "trial/latency_ms/step", "trial/memory_tokens")
"""Costs against which a Pareto front may be drawn. The processor's time is what other programs do not lengthen."""


@dataclass(frozen=True)
class Outcome:
    """What became of one trial."""

    name: str
    status: str
    """finished | failed | stopped (early) | interrupted | unfinished."""
    words: tuple[str, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers of a finished trial, by the names of sweep files."""
    record: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""

    @property
    def by_key(self) -> dict[str, str]:
        """Words by key; a later one replaces an earlier one."""
        return {key: value for key, _, value in (word.partition("=") for word in self.words)}


@dataclass(frozen=True)
class Configuration:
    """Trials that differ in their seeds alone."""

    label: str
    trials: tuple[Outcome, ...]
    metric: str

    @property
    def scores(self) -> list[float]:
        return [trial.values[self.metric] for trial in self.trials]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def summary(self) -> str:
        """Mean, and spread where there is one."""
        return f"{self.mean:.1f}" + (f" ± {self.spread:.1f}" if len(self.scores) > 1 else "")

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    def cost(self, name: str) -> float | None:
        """Mean over the trials that know it; None where none does."""
        known = [trial.values[name] for trial in self.trials if name in trial.values]
        return statistics.fmean(known) if known else None

    def by_verb(self, kind: str) -> dict[str, float]:
        """Mean milliseconds of each verb; empty where they were not measured."""
        known = [trial.record["cost"][kind] for trial in self.trials if kind in trial.record["cost"]]
        return {verb: statistics.fmean(times[verb] for times in known) for verb in known[0]} if known else {}

    @property
    def model(self) -> Mapping[str, Any]:
        return self.trials[0].record["model"]


def read_outcomes(out: Path) -> list[Outcome]:
    """Every trial of a sweep's folder, by name."""
    return [outcome_in(path) for path in sorted((out / "trials").glob("*")) if path.is_dir()]


def outcome_in(folder: Path) -> Outcome:
    """What became of the trial in a folder."""
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text())
        return Outcome(folder.name, "finished", tuple(record["words"]), flat(record), record)
    if (folder / FAILURE).is_file():
        failure = json.loads((folder / FAILURE).read_text())
        return Outcome(folder.name, failure["status"], tuple(failure["words"]), cause=failure["cause"])
    words = json.loads((folder / WORDS).read_text()) if (folder / WORDS).is_file() else ()
    return Outcome(folder.name, "unfinished", tuple(words))


def gather(outcomes: Iterable[Outcome], *, metric: str) -> list[Configuration]:
    """Finished trials by configuration, in the order of their names; what varies is the label."""
    finished = [outcome for outcome in outcomes if outcome.status == "finished" and metric in outcome.values]
    keys = varying(finished)
    groups: dict[str, list[Outcome]] = {}
    for outcome in finished:
        label = ", ".join(f"{key}={outcome.by_key.get(key, 'default')}" for key in keys) or "the only one"
        groups.setdefault(label, []).append(outcome)
    return [Configuration(label, tuple(trials), metric) for label, trials in groups.items()]


def pareto(configurations: Sequence[Configuration], cost: str, *, maximize: bool) -> list[Configuration]:
    """Those that no other beats in score and cost at once, cheapest first."""
    sign = 1.0 if maximize else -1.0
    known = [(found, sign * c.mean, c) for c in configurations if (found := c.cost(cost)) is not None]
    front = [
        (spent, c)
        for spent, score, c in known
        if not any(s <= spent and v >= score and (s < spent or v > score) for s, v, _ in known)
    ]
    return [c for _, c in sorted(front, key=lambda pair: pair[0])]


def front_cost(configurations: Sequence[Configuration]) -> str | None:
    """The cost that fronts are drawn against: the first of FRONTS that every configuration knows."""
    return next((name for name in FRONTS if all(c.cost(name) is not None for c in configurations)), None)


def varying(outcomes: Sequence[Outcome]) -> list[str]:
    """Keys whose values differ among trials, seeds and folders aside, in the order of the words."""
    keys = dict.fromkeys(key for outcome in outcomes for key in outcome.by_key if key not in (SEED, "out"))
    return [key for key in keys if len({outcome.by_key.get(key) for outcome in outcomes}) > 1]
