"""`edgetam report A B`: two evaluations side by side, object by object, with what differs in their conditions said first."""

from __future__ import annotations

import argparse
import html
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetam_pl.evaluation.reporting.charts import Line, chart
from edgetam_pl.evaluation.reporting.page import anchor, conditions, document, over_time, picture, table, tiles
from edgetam_pl.evaluation.reporting.report import Report, write_whole

MUST_AGREE = ("protocol", "prompts", "frame_rule", "data", "list_hash", "data_hash")
"""Conditions without which two numbers are about different things."""
_COLOURS = ("#2b8fd6", "#d98e04")


def main(argv: list[str]) -> int:
    """Compare two evaluations, print the difference, write a page."""
    parser = argparse.ArgumentParser(
        prog="edgetam report",
        description="Two evaluations side by side: A, B and B - A for every object, J over time of both, pictures of both.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder that `edgetam evaluate` wrote, or its report.json")
    parser.add_argument("b", type=Path, metavar="B", help="the other one")
    parser.add_argument("--out", type=Path, default=Path("runs/report"), help="folder of the page (default: runs/report)")
    parser.add_argument("--anyway", action="store_true", help="compare evaluations of different data or protocols")
    parser.add_argument(
        "--worst", type=int, default=20, metavar="N", help="objects to print, greatest loss first (default: 20)"
    )
    args = parser.parse_args(argv)
    comparison = Comparison.of(Report.read(args.a), Report.read(args.b), anyway=args.anyway)
    write_whole(args.out / "comparison.json", json.dumps(comparison.as_json(), indent=1).encode())
    write_whole(args.out / "comparison.html", comparison.page().encode())
    print(comparison.text(limit=args.worst))
    print(f"page: {args.out / 'comparison.html'}")
    return 0


@dataclass(frozen=True)
class Pair:
    """One object in both evaluations; scores in 0 ... 100, over all rounds."""

    sequence: str
    object: str
    a: float
    b: float

    @property
    def gain(self) -> float:
        """B - A."""
        return self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same objects."""

    a: Report
    b: Report
    pairs: tuple[Pair, ...]
    """The greatest loss first."""

    @classmethod
    def of(cls, a: Report, b: Report, *, anyway: bool = False) -> Comparison:
        """Pair the objects of both.

        Raises:
            ValueError: they are about different things, or have no object in common.
        """
        differ = [name for name in MUST_AGREE if a.conditions.get(name) != b.conditions.get(name)]
        if differ and not anyway:
            said = "; ".join(f"{name}: {a.conditions.get(name)} and {b.conditions.get(name)}" for name in differ)
            raise ValueError(f"The evaluations differ in more than the model ({said}). --anyway compares what they share.")
        scores_a, scores_b = _scores(a), _scores(b)
        common = [key for key in scores_a if key in scores_b]
        if not common:
            raise ValueError("The evaluations have no object in common.")
        pairs = [Pair(*key, scores_a[key], scores_b[key]) for key in common]
        return cls(a, b, tuple(sorted(pairs, key=lambda pair: (pair.gain, pair.sequence, pair.object))))

    @property
    def mean_a(self) -> float:
        return sum(pair.a for pair in self.pairs) / len(self.pairs)

    @property
    def mean_b(self) -> float:
        return sum(pair.b for pair in self.pairs) / len(self.pairs)

    @property
    def wins(self) -> tuple[int, int, int]:
        """Objects on which A is better, B is better, and neither."""
        a, b = sum(pair.gain < 0 for pair in self.pairs), sum(pair.gain > 0 for pair in self.pairs)
        return a, b, len(self.pairs) - a - b

    def as_json(self) -> dict[str, Any]:
        a, b, even = self.wins
        return {
            "a": {"title": self.a.title, "score": self.mean_a, "conditions": dict(self.a.conditions)},
            "b": {"title": self.b.title, "score": self.mean_b, "conditions": dict(self.b.conditions)},
            "gain": self.mean_b - self.mean_a,
            "better": {"a": a, "b": b, "even": even},
            "objects": [
                {"sequence": p.sequence, "object": p.object, "a": p.a, "b": p.b, "gain": p.gain} for p in self.pairs
            ],
        }

    def text(self, *, limit: int) -> str:
        """For people at a terminal."""
        a, b, even = self.wins
        names = max(len(f"{p.sequence} {p.object}") for p in self.pairs)
        lines = [f"A: {self.a.title}", f"B: {self.b.title}", f"{'':{names}}       A       B   B - A"]
        lines += [
            f"{f'{p.sequence} {p.object}':{names}}  {p.a:6.1f}  {p.b:6.1f}  {p.gain:+6.1f}" for p in self.pairs[:limit]
        ]
        lines.append(f"{'mean':{names}}  {self.mean_a:6.1f}  {self.mean_b:6.1f}  {self.mean_b - self.mean_a:+6.1f}")
        lines.append(f"B is better on {b} objects, A on {a}, neither on {even}.")
        return "\n".join(lines)

    def page(self) -> str:
        """One page that needs no network."""
        rows: list[list[str | float]] = [[p.sequence, p.object, p.a, p.b, p.gain] for p in self.pairs]
        a, b, even = self.wins
        sequences = list(dict.fromkeys(pair.sequence for pair in self.pairs))
        return document(
            f"{self.a.title} | {self.b.title}",
            [
                f"<h1>A: {html.escape(self.a.title)}<br>B: {html.escape(self.b.title)}</h1>",
                f"<p>{len(self.pairs)} objects in both; B is better on {b}, A on {a}, neither on {even}.</p>",
                tiles({"A": self.mean_a, "B": self.mean_b, "B - A": self.mean_b - self.mean_a}),
                self._curves(),
                "<h2>Objects</h2><p>The greatest loss first.</p>",
                table(["sequence", "object", "A", "B", "B - A"], rows, words=2, sorted_by=4),
                "<h2>What differs in the conditions</h2>",
                conditions(self._differences()),
                "<h2>Sequences</h2>",
                *(self._sequence(name) for name in sequences),
            ],
        )

    def _differences(self) -> dict[str, str]:
        names = {**self.a.conditions, **self.b.conditions}
        return {
            name: f"{self.a.conditions.get(name, 'unknown')} | {self.b.conditions.get(name, 'unknown')}"
            for name in names
            if self.a.conditions.get(name) != self.b.conditions.get(name)
        }

    def _curves(self) -> str:
        if len(self.a.rounds) <= 1 or len(self.b.rounds) <= 1:
            return ""
        lines = [
            Line(name, report.rounds, [report.of_round(number).score for number in report.rounds], colour)
            for name, report, colour in (("A", self.a, _COLOURS[0]), ("B", self.b, _COLOURS[1]))
        ]
        unit = "clicks" if self.a.conditions.get("protocol") == "sa" else "prompted frames"
        return f"<h2>Curves</h2>{chart(lines, x_title=unit, y_title=f'score over {unit}', markers=True)}"

    def _sequence(self, name: str) -> str:
        both = (("A", self.a, _COLOURS[0]), ("B", self.b, _COLOURS[1]))
        curve = over_time((label, colour, _mean_over_time(report, name)) for label, report, colour in both)
        shown = "".join(
            f"<p>{label}</p>{picture(item, inline=True)}"
            for label, report, _ in both
            for item in report.sequences
            if item.name == name and item.picture is not None
        )
        pairs = [pair for pair in self.pairs if pair.sequence == name]
        gain = sum(pair.gain for pair in pairs) / len(pairs)
        header = f"<header><h3>{html.escape(name)}</h3><b>{gain:+.1f}</b><span>{len(pairs)} objects</span></header>"
        return f'<section class="sequence" id="{anchor(name)}">{header}{curve}{shown}</section>'


def _mean_over_time(report: Report, sequence: str) -> dict[str, float]:
    """J of each frame, the mean over objects, in the last round; 0 ... 100."""
    last = max(report.rounds)
    found: dict[str, list[float]] = {}
    for row in report.rows:
        if row.sequence == sequence and row.round == last:
            for stem, j in zip(row.stems, row.j):
                found.setdefault(stem, []).append(100 * j)
    return {stem: sum(values) / len(values) for stem, values in found.items()}


def _scores(report: Report) -> dict[tuple[str, str], float]:
    """The score of each object, its mean over rounds."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in report.rows:
        if not math.isnan(row.score):
            found.setdefault((row.sequence, row.object), []).append(row.score)
    return {key: sum(values) / len(values) for key, values in found.items()}
