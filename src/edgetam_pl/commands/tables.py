"""`make tables`: results become the tables of experiments/README.md, with the paper's numbers beside ours.

A result is `experiments/results/<slug>/result.json`, as `edgetam evaluate out=experiments/results/<slug>` writes it. A
number of the paper stands beside ours only where both are about the same sequences; otherwise the row says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from edgetam_pl.config.choices import Flags
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.tables import markdown_table
from edgetam_pl.io.templates import templates

BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"
TEXTS = templates("edgetam_pl.commands")


@dataclass(frozen=True)
class Published:
    """A number of the paper, and what it is about."""

    table: str
    model: str
    """Our name of the model, or the label of a result."""
    value: float
    protocol: str
    data: str = ""
    """Kind of data set; empty for the average over `sets` of them."""
    metric: str = "J&F"
    num_sequences: int = 0
    """Of the official list; 0 where it is an average over sets."""
    prompt: str = ""
    sets: int = 1
    note: str = ""

    @property
    def what(self) -> str:
        """In words, for a reader of the table."""
        data = self.data if not self.num_sequences else f"{self.data}, {self.num_sequences} sequences"
        return f"mean of {self.sets} sets" if self.sets > 1 else data


def _published() -> tuple[Published, ...]:
    """What `published.yaml` holds, row by row."""
    blocks = yaml.safe_load((files("edgetam_pl.commands") / "published.yaml").read_text(encoding="utf-8"))
    return tuple(
        Published(table=block["table"], model=model, value=value, **block["shared"], **column)
        for block in blocks
        for model, values in block["rows"].items()
        for column, value in zip(block["columns"], values)
    )


PUBLISHED = _published()


@dataclass(frozen=True)
class Result:
    """One evaluation, as it is kept."""

    slug: str
    scores: Mapping[str, float]
    conditions: Mapping[str, Any]
    curve: Mapping[str, float]

    @property
    def name(self) -> str:
        """The row it belongs to: its label, or else its model."""
        return self.conditions.get("label") or self.conditions.get("model", "unknown")

    @property
    def data(self) -> str:
        folder, kind = self.conditions.get("set") or "", self.conditions.get("data", "")
        return f"{kind} ({folder})" if folder and folder != kind else kind

    @property
    def protocol(self) -> str:
        return str(self.conditions.get("protocol", ""))

    @property
    def in_words(self) -> str:
        """The conditions without which the number says nothing."""
        mine = self.conditions
        parts = [
            f"{mine.get('resolution')} px",
            str(mine.get("prompts")),
            str(mine.get("frame_rule")),
            f"{mine.get('num_sequences')} sequences, {mine.get('num_objects')} objects",
            *(f"{name} {mine.get(f'{name}_hash')}" for name in ("list", "data", "weights")),
            str(mine.get("precision")),
            str(mine.get("date")),
        ]
        return "; ".join(part for part in parts if part not in ("None", ""))

    @property
    def scores_in_words(self) -> str:
        return ", ".join(f"{name} {value:.1f}" for name, value in self.scores.items())

    def is_about(self, entry: Published) -> bool:
        """The same model, protocol, prompt and metric; and for a single set, the same sequences."""
        mine = self.conditions
        if (self.name, mine.get("protocol")) != (entry.model, entry.protocol) or entry.metric not in self.scores:
            return False
        if entry.prompt and mine.get("prompt") != entry.prompt:
            return False
        return entry.sets > 1 or (mine.get("data"), mine.get("num_sequences")) == (entry.data, entry.num_sequences)


def main(argv: list[str] | None = None) -> int:
    """Rebuild the tables."""
    parser = Flags(prog="python -m edgetam_pl.commands.tables", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("experiments/results"))
    parser.add_argument("--readme", type=Path, default=Path("experiments/README.md"))
    args = parser.parse_args(argv)
    results, sweeps = read_results(args.results), read_sweeps(args.results)
    text = args.readme.read_text() if args.readme.is_file() else TEXTS.get_template("experiments.md.jinja").render()
    write_text(args.readme, with_tables(text, tables(results, sweeps)))
    print(f"{args.readme}: {len(results)} results, {len(sweeps)} sweeps, {len(PUBLISHED)} published numbers")
    return 0


def read_results(folder: Path) -> list[Result]:
    """All results below a folder, by slug.

    Raises:
        ValueError: a result that is none; the file is named.
    """
    results = []
    for path in sorted(folder.glob("*/result.json")):
        try:
            kept = json.loads(path.read_text())
            if "conditions" not in kept:
                continue  # of something else, for example a benchmark
            scores = {name: value for name, value in kept["scores"].items() if value is not None}
            results.append(Result(path.parent.name, scores, kept["conditions"], kept.get("curve", {})))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a result of `edgetam evaluate` ({error!r}).") from error
    return results


def read_sweeps(folder: Path) -> dict[str, dict[str, Any]]:
    """Kept sweeps (`edgetam sweep-report DIR --keep FOLDER`) by slug."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))}
    return {slug: kept for slug, kept in found.items() if "sweep" in kept}


def with_tables(text: str, made: str) -> str:
    """The README with its tables replaced.

    Raises:
        ValueError: the marks between which tables stand are missing.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ValueError(f"The README must hold {BEGIN} and {END}, once each and in this order; tables stand between them.")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{head}{BEGIN}\n\n{made}\n{tail}"


def tables(results: list[Result], sweeps: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """All tables, as Markdown."""
    curves = [result for result in results if result.curve and result.protocol.startswith("pvs")]
    TEXTS.filters.update(table=lambda rows, head: markdown_table(head, rows))
    return TEXTS.get_template("tables.md.jinja").render(
        published={
            title: [_published_row(entry, results) for entry in PUBLISHED if entry.table == title]
            for title in dict.fromkeys(entry.table for entry in PUBLISHED)
        },
        curves=curves,
        rounds=[str(number) for number in sorted({int(number) for result in curves for number in result.curve})],
        results=results,
        sweeps=sweeps or {},
        cell=_cell,
    )


def _published_row(entry: Published, results: list[Result]) -> tuple[str, ...]:
    mine = [result for result in results if result.is_about(entry)]
    sets = {result.data: result for result in mine}
    paper = f"{entry.value:.1f}" + (f" ({entry.note})" if entry.note else "")
    metric = f"{entry.metric}, {entry.prompt}" if entry.prompt else entry.metric
    shown, conditions = "not run", ""
    if sets:
        ours = sum(result.scores[entry.metric] for result in sets.values()) / len(sets)
        if entry.sets > 1 and len(sets) != entry.sets:
            shown, conditions = f"{ours:.1f}, mean of {len(sets)} sets, not comparable", mine[0].in_words
        else:
            shown, conditions = f"**{ours:.1f}** ({ours - entry.value:+.1f})", mine[-1].in_words
    return entry.model, metric, entry.what, paper, shown, conditions


def _cell(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.1f}" if values.get(name) is not None else ""


if __name__ == "__main__":
    raise SystemExit(main())
