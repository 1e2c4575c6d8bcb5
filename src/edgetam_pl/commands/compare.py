"""`edgetam compare A B`: two evaluations side by side, object by object; what differs in their conditions comes first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgetam_pl.config.choices import Flags
from edgetam_pl.evaluation.reporting.charts import Chart, Line, chart
from edgetam_pl.evaluation.reporting.page import counted, data_uri, over_time, render
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.evaluation.scoring import mean_j_by_frame
from edgetam_pl.io.atomic import write_json, write_text
from edgetam_pl.io.overlay import COLOURS
from edgetam_pl.io.tables import text_table

MUST_AGREE = ("protocol", "prompts", "frame_rule", "data", "list_hash", "data_hash")
"""Conditions without which two numbers are about different things."""


def main(argv: list[str]) -> int:
    """Compare two evaluations, print the difference, write a page."""
    parser = Flags(
        prog="edgetam compare",
        description="Two evaluations side by side: A, B and B - A for every object, J over time of both, pictures of both.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder that `edgetam evaluate` wrote, or its report.json")
    parser.add_argument("b", type=Path, metavar="B", help="the other one")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of the page (default: runs/compare)")
    parser.add_argument("--anyway", action="store_true", help="compare evaluations of different data or protocols")
    parser.add_argument(
        "--worst", type=int, default=20, metavar="N", help="objects to print, greatest loss first (default: 20)"
    )
    args = parser.parse_args(argv)
    comparison = Comparison.of(Report.read(args.a), Report.read(args.b), anyway=args.anyway)
    write_json(args.out / "comparison.json", comparison.as_json(), indent=1)
    page = write_text(args.out / "comparison.html", comparison.page())
    print(f"{comparison.text(limit=args.worst)}\npage: {page}")
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
        # the score of each object, its mean over rounds
        scores_a, scores_b = ({k: sum(v.values()) / len(v) for k, v in r.by_object().items()} for r in (a, b))
        common = [key for key, score in scores_a.items() if not math.isnan(score + scores_b.get(key, math.nan))]
        if not common:
            raise ValueError("The evaluations have no object in common.")
        pairs = [Pair(*key, scores_a[key], scores_b[key]) for key in common]
        return cls(a, b, tuple(sorted(pairs, key=lambda pair: (pair.gain, pair.sequence, pair.object))))

    @property
    def mean(self) -> Pair:
        """Over all objects."""
        a, b = (sum(scores) / len(self.pairs) for scores in zip(*((pair.a, pair.b) for pair in self.pairs)))
        return Pair("mean", "", a, b)

    @property
    def wins(self) -> dict[str, int]:
        """Objects on which A is better, B is better, and neither."""
        a, b = sum(pair.gain < 0 for pair in self.pairs), sum(pair.gain > 0 for pair in self.pairs)
        return {"a": a, "b": b, "even": len(self.pairs) - a - b}

    def as_json(self) -> dict[str, Any]:
        return {
            "a": {"title": self.a.title, "score": self.mean.a, "conditions": dict(self.a.conditions)},
            "b": {"title": self.b.title, "score": self.mean.b, "conditions": dict(self.b.conditions)},
            "gain": self.mean.gain,
            "better": self.wins,
            "objects": [{**asdict(pair), "gain": pair.gain} for pair in self.pairs],
        }

    def text(self, *, limit: int) -> str:
        """For people at a terminal."""
        rows = [
            (f"{pair.sequence} {pair.object}".strip(), f"{pair.a:.1f}", f"{pair.b:.1f}", f"{pair.gain:+.1f}")
            for pair in (*self.pairs[:limit], self.mean)
        ]
        table = text_table(("", "A", "B", "B - A"), rows, words=1)
        better = "B is better on {b} objects, A on {a}, neither on {even}.".format_map(self.wins)
        return f"A: {self.a.title}\nB: {self.b.title}\n{table}\n{better}"

    def page(self, more: Mapping[str, float] | None = None) -> str:
        """One page that needs no network; `more` are scores to show beside the two."""
        better = "B is better on {b}, A on {a}, neither on {even}.".format_map(self.wins)
        values = {
            "title": f"{self.a.title} | {self.b.title}",
            "a": self.a.title,
            "b": self.b.title,
            "summary": f"{counted(len(self.pairs), 'object')} in both; {better}",
            "headline": {"A": self.mean.a, "B": self.mean.b, "B - A": f"{self.mean.gain:+.1f}", **(more or {})},
            "curve": self._curve(),
            "rows": [[p.sequence, p.object, p.a, p.b, p.gain] for p in self.pairs],
            "differences": self._differences(),
            "sequences": [self._sequence(name) for name in dict.fromkeys(pair.sequence for pair in self.pairs)],
        }
        return render("comparison.html", values)

    def _both(self) -> tuple[tuple[str, Report, str], ...]:
        """Name, report and colour of each."""
        return ("A", self.a, COLOURS[1]), ("B", self.b, COLOURS[3])

    def _differences(self) -> dict[str, str]:
        a, b = self.a.conditions, self.b.conditions
        return {
            name: f"{a.get(name, 'unknown')} | {b.get(name, 'unknown')}" for name in {**a, **b} if a.get(name) != b.get(name)
        }

    def _curve(self) -> Chart | None:
        """Scores over rounds, where both have several."""
        if min(len(self.a.rounds), len(self.b.rounds)) <= 1:
            return None
        lines = [
            Line(name, report.rounds, [report.of_round(number).score for number in report.rounds], colour)
            for name, report, colour in self._both()
        ]
        unit = "clicks" if self.a.conditions.get("protocol") == "sa" else "prompted frames"
        return chart(lines, x_title=unit, y_title=f"score over {unit}", markers=True)

    def _sequence(self, name: str) -> dict[str, Any]:
        """J over time of both, and pictures of both."""
        gains = [pair.gain for pair in self.pairs if pair.sequence == name]
        lines, sources = [], {}
        for label, report, colour in self._both():
            rows = [row for row in report.rows if row.sequence == name and row.round == max(report.rounds)]
            lines.append((label, colour, {stem: 100 * j for stem, j in mean_j_by_frame(rows).items()}))
            for item in report.sequences:
                if item.name == name and item.picture is not None:
                    sources[label] = data_uri(item.picture)
        mean = sum(gains) / len(gains)
        return {"name": name, "gain": mean, "num_objects": len(gains), "curve": over_time(lines), "sources": sources}
