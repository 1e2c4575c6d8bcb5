"""`edgetam sweep-report DIR`: trials become configurations (mean, spread over seeds), a Pareto front, tables, plots."""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetam_pl.evaluation.reporting.report import write_whole
from edgetam_pl.sweeps.trial import FAILURE, RECORD, WORDS, flat

TABLE, TRIALS, PAGE = "table.csv", "trials.csv", "report.md"
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

_CLOCKS = "Clock times hold only for a machine that does nothing else; the processor's time is less sensitive."


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
    def said(self) -> dict[str, str]:
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
    def said(self) -> str:
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


def main(argv: list[str]) -> int:
    """Write the report of a sweep's folder and print it."""
    parser = argparse.ArgumentParser(prog="edgetam sweep-report", description=__doc__)
    parser.add_argument("folder", type=Path, help="runs/sweeps/NAME")
    parser.add_argument("--metric", help="instead of the sweep's own, for example trial/f")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="also there, with result.json, for make tables")
    parser.add_argument("--wandb", action="store_true", help="also as a run of W&B: table, scatter plots, pictures")
    args = parser.parse_args(argv)
    page = write_report(args.folder, metric=args.metric)
    print(page.read_text())
    if args.keep:
        keep(args.folder, args.keep)
    if args.wandb:
        from edgetam_pl.training.wandb_sweeps import log_report

        log_report(args.folder, name=args.folder.name)
    return 0


def keep(out: Path, folder: Path) -> None:
    """Copy a written report to where results are kept (experiments/results/NNN-slug), with result.json for the tables."""
    names = [TABLE, TRIALS, PAGE, "sweep.yaml", *(path.name for path in sorted(out.glob("*.png")))]
    for name in names:
        if (out / name).is_file():
            write_whole(folder / name, (out / name).read_bytes())
    with (out / TABLE).open(newline="") as file:
        head, *rows = list(csv.reader(file))
    result = {"sweep": out.name, "head": head, "rows": rows}
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())


def read_outcomes(out: Path) -> list[Outcome]:
    """Every trial of a sweep's folder, by name."""
    outcomes = []
    for folder in sorted(path for path in (out / "trials").glob("*") if path.is_dir()):
        if (folder / RECORD).is_file():
            record = json.loads((folder / RECORD).read_text())
            outcomes.append(Outcome(folder.name, "finished", tuple(record["words"]), flat(record), record))
        elif (folder / FAILURE).is_file():
            said = json.loads((folder / FAILURE).read_text())
            outcomes.append(Outcome(folder.name, said["status"], tuple(said["words"]), cause=said["cause"]))
        else:
            words = json.loads((folder / WORDS).read_text()) if (folder / WORDS).is_file() else ()
            outcomes.append(Outcome(folder.name, "unfinished", tuple(words)))
    return outcomes


def write_report(out: Path, *, metric: str | None = None) -> Path:
    """report.md, table.csv, trials.csv and plots in the sweep's folder; returns the page.

    Raises:
        ValueError: the folder holds no trials.
    """
    outcomes = read_outcomes(out)
    if not outcomes:
        raise ValueError(f"{out} holds no trials; `edgetam sweep FILE` makes some.")
    chosen, maximize = (metric, True) if metric else _metric_of(out)
    configurations = gather(outcomes, metric=chosen)
    pictures: list[str] = []
    if configurations:
        from edgetam_pl.sweeps.plots import draw_all

        pictures = draw_all(out, configurations, metric=chosen, maximize=maximize)
    write_whole(out / TABLE, _csv(*_table(configurations, maximize=maximize)).encode())
    write_whole(out / TRIALS, _csv(*_trials(outcomes)).encode())
    write_whole(out / PAGE, _page(out, outcomes, configurations, chosen, maximize, pictures).encode())
    return out / PAGE


def gather(outcomes: Iterable[Outcome], *, metric: str) -> list[Configuration]:
    """Finished trials by configuration, in the order of their names; what varies is the label."""
    finished = [outcome for outcome in outcomes if outcome.status == "finished" and metric in outcome.values]
    varying = _varying(finished)
    groups: dict[str, list[Outcome]] = {}
    for outcome in finished:
        label = ", ".join(f"{key}={outcome.said.get(key, 'default')}" for key in varying) or "the only one"
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


def _varying(outcomes: Sequence[Outcome]) -> list[str]:
    """Keys whose values differ among trials, seeds and folders aside, in the order of the words."""
    keys = dict.fromkeys(key for outcome in outcomes for key in outcome.said if key not in (SEED, "out"))
    return [key for key in keys if len({outcome.said.get(key) for outcome in outcomes}) > 1]


def _metric_of(out: Path) -> tuple[str, bool]:
    from edgetam_pl.sweeps.sweep_config import read_sweep

    if not (out / "sweep.yaml").is_file():
        return "trial/jf", True  # trials of W&B's agents: the sweep is on the server
    sweep = read_sweep(out / "sweep.yaml")
    return sweep.metric, sweep.maximize


Rows = tuple[list[str], list[list[str]]]


def _table(configurations: Sequence[Configuration], *, maximize: bool) -> Rows:
    """One row a configuration, best first."""
    if not configurations:
        return ["configuration"], []
    costs = [name for name in COSTS if any(c.cost(name) is not None for c in configurations)]
    fronts = {name: pareto(configurations, name, maximize=maximize) for name in FRONTS}
    head = ["configuration", "seeds", "mean", "sd", "lowest", "highest", *(COSTS[name] for name in costs), "on the front of"]
    rows = []
    for c in sorted(configurations, key=lambda c: c.mean, reverse=maximize):
        on = [COSTS[name] for name, front in fronts.items() if c in front]
        spread = f"{c.spread:.2f}" if len(c.trials) > 1 else "one seed"
        numbers = [f"{c.mean:.2f}", spread, f"{min(c.scores):.2f}", f"{max(c.scores):.2f}"]
        spent = ["" if (value := c.cost(name)) is None else _figure(value) for name in costs]
        rows.append([c.label, str(len(c.trials)), *numbers, *spent, ", ".join(on)])
    return head, rows


def _trials(outcomes: Sequence[Outcome]) -> Rows:
    """One row a trial: its words that vary, and every number it left."""
    varying = [*_varying(outcomes), SEED]
    numbers = list(dict.fromkeys(name for outcome in outcomes for name in outcome.values))
    rows = [
        [
            outcome.name,
            outcome.status,
            *(outcome.said.get(key, "") for key in varying),
            *(str(outcome.values.get(name, "")) for name in numbers),
            outcome.cause,
        ]
        for outcome in outcomes
    ]
    return ["trial", "status", *varying, *numbers, "cause"], rows


def _page(
    out: Path,
    outcomes: Sequence[Outcome],
    configurations: Sequence[Configuration],
    metric: str,
    maximize: bool,
    pictures: Sequence[str],
) -> str:
    counts = {status: sum(o.status == status for o in outcomes) for status in dict.fromkeys(o.status for o in outcomes)}
    parts = [f"# {out.name}\n", ", ".join(f"{number} {status}" for status, number in counts.items()) + ".\n"]
    if configurations:
        first = configurations[0].trials[0].record
        parts.append(f"{metric} of {_conditions(first)}. Mean and standard deviation over seeds.\n")
        parts.append(_markdown(*_table(configurations, maximize=maximize)))
        if machine := first["cost"].get("machine"):
            where = f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}, {machine['date']}"
            parts.append(f"Times: one object, full bank of 7 memories and 16 pointers, median; {where}. {_CLOCKS}\n")
    missing = [outcome for outcome in outcomes if outcome.status != "finished"]
    if missing:
        parts.append("## Not finished\n")
        parts.append(_markdown(["trial", "status", "cause"], [[o.name, o.status, o.cause] for o in missing]))
    parts += [f"![{name.removesuffix('.png')}]({name})\n" for name in pictures]
    parts.append(f"Every number: [{TRIALS}]({TRIALS}); this table: [{TABLE}]({TABLE}).\n")
    return "\n".join(parts)


def _conditions(record: Mapping[str, Any]) -> str:
    said = record["conditions"]
    return (
        f"{said.get('num_sequences')} sequences with {said.get('num_objects')} objects of {said.get('data')}, "
        f"{said.get('prompts')}, {said.get('resolution')} pixels, {said.get('precision')}"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.3g}"


def _csv(head: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
