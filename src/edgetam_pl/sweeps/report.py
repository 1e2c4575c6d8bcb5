"""`edgetam sweep-report DIR`: the trials of a sweep as tables (Markdown and CSV), a Pareto front and plots."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgetam_pl.config.choices import Flags
from edgetam_pl.io.atomic import atomic_path, write_json, write_text
from edgetam_pl.io.tables import markdown_table
from edgetam_pl.io.templates import render
from edgetam_pl.sweeps.outcomes import COSTS, FRONTS, SEED, Configuration, Outcome, gather, pareto, read_outcomes, varying
from edgetam_pl.sweeps.plots import draw_all
from edgetam_pl.sweeps.sweep_config import read_sweep

TABLE, TRIALS, PAGE = "table.csv", "trials.csv", "report.md"

Rows = list[list[str]]
"""A table; the first row is its head."""


def main(argv: list[str]) -> int:
    """Write the report of a sweep's folder and print it."""
    parser = Flags(prog="edgetam sweep-report", description=__doc__)
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
    for path in (*(out / name for name in (TABLE, TRIALS, PAGE, "sweep.yaml")), *sorted(out.glob("*.png"))):
        if path.is_file():
            with atomic_path(folder / path.name) as draft:
                shutil.copyfile(path, draft)
    with (out / TABLE).open(newline="") as file:
        head, *rows = list(csv.reader(file))
    write_json(folder / "result.json", {"sweep": out.name, "head": head, "rows": rows}, indent=1)


def write_report(out: Path, *, metric: str | None = None) -> Path:
    """report.md, table.csv, trials.csv and plots in the sweep's folder; returns the page.

    Raises:
        ValueError: the folder holds no trials.
    """
    outcomes = read_outcomes(out)
    if not outcomes:
        raise ValueError(f"{out} holds no trials; `edgetam sweep FILE` makes some.")
    chosen, maximize = metric or "trial/jf", True
    if metric is None and (out / "sweep.yaml").is_file():  # trials of W&B's agents have none: the sweep is on the server
        sweep = read_sweep(out / "sweep.yaml")
        chosen, maximize = sweep.metric, sweep.maximize
    configurations = gather(outcomes, metric=chosen)
    pictures = draw_all(out, configurations, metric=chosen, maximize=maximize) if configurations else []
    table = _table(configurations, maximize=maximize)
    write_text(out / TABLE, _csv(table))
    write_text(out / TRIALS, _csv(_trials(outcomes)))
    return write_text(out / PAGE, _page(out.name, outcomes, configurations, chosen, table, pictures))


def _table(configurations: Sequence[Configuration], *, maximize: bool) -> Rows:
    """One row a configuration, best first."""
    if not configurations:
        return [["configuration"]]
    costs = [name for name in COSTS if any(c.cost(name) is not None for c in configurations)]
    fronts = {name: pareto(configurations, name, maximize=maximize) for name in FRONTS}
    rows = [
        ["configuration", "seeds", "mean", "sd", "lowest", "highest", *(COSTS[name] for name in costs), "on the front of"]
    ]
    for c in sorted(configurations, key=lambda c: c.mean, reverse=maximize):
        spread = f"{c.spread:.2f}" if len(c.trials) > 1 else "one seed"
        numbers = [f"{c.mean:.2f}", spread, f"{min(c.scores):.2f}", f"{max(c.scores):.2f}"]
        on = ", ".join(COSTS[name] for name, front in fronts.items() if c in front)
        rows.append([c.label, str(len(c.trials)), *numbers, *(_figure(c.cost(name)) for name in costs), on])
    return rows


def _trials(outcomes: Sequence[Outcome]) -> Rows:
    """One row a trial: its words that vary, and every number it left."""
    keys = [*varying(outcomes), SEED]
    numbers = list(dict.fromkeys(name for outcome in outcomes for name in outcome.values))
    rows = [["trial", "status", *keys, *numbers, "cause"]]
    for o in outcomes:
        words, values = (o.by_key.get(key, "") for key in keys), (str(o.values.get(name, "")) for name in numbers)
        rows.append([o.name, o.status, *words, *values, o.cause])
    return rows


def _page(
    title: str,
    outcomes: Sequence[Outcome],
    configurations: Sequence[Configuration],
    metric: str,
    table: Rows,
    pictures: Sequence[str],
) -> str:
    """The report in Markdown."""
    counts = Counter(outcome.status for outcome in outcomes)
    return render(
        "edgetam_pl.sweeps", "report.md.jinja", title=title, metric=metric, trials=TRIALS, csv=TABLE, pictures=pictures,
        counts=", ".join(f"{number} {status}" for status, number in counts.items()),
        record=configurations[0].trials[0].record if configurations else None,
        table=markdown_table(table[0], table[1:]),
        missing=markdown_table(
            ["trial", "status", "cause"], [[o.name, o.status, o.cause] for o in outcomes if o.status != "finished"]
        ),
    )  # fmt: skip


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 or float(value).is_integer() else f"{value:.3g}"


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
