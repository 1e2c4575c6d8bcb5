"""The demo's one page: J&F, curves, pictures, package sizes. Everything is part of it; it opens without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgetam_pl.evaluation.reporting.charts import INK, plain, svg
from edgetam_pl.evaluation.reporting.page import data_uri, render
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.overlay import colour_of
from edgetam_pl.training.curves import STEP, read_lines


@dataclass(frozen=True)
class Story:
    """What a demo did, for the reader of its page."""

    title: str
    text: str
    models: Mapping[str, str]
    """Rows of the table of scores: key of the score, what it is about."""
    stages: Mapping[str, str]
    """Columns of the curves: folder of a training, its heading."""


CURVES = {
    "task losses": {f"train/{name}": name for name in ("focal", "dice", "iou", "presence")},
    "agreement with the teacher": {
        f"agree/{name}": name for name in ("f16_cosine", "f_m_cosine", "f16_mse", "f_m_mse")
    },
}  # fmt: skip
"""Rows of the picture of curves: keys of curves.jsonl and what they are called."""


def write_report(
    out: Path, summary: dict[str, Any], records: dict[str, dict[str, Any]], *, titles: dict[str, str], story: Story
) -> Path:
    """Write `report.html` in `out` and return its path."""
    scores = records["evaluate"]
    shown = {"student": "student", "teacher": "teacher", "repeat": "first mask repeated", "untrained": "student, untrained"}
    values = {
        "title": "EdgeTAM-PL demo",
        "story": story,
        "headline": {
            **{f"{label}, J&F": scores[name]["jf"] for name, label in shown.items()},
            "minutes": summary["seconds"] / 60,
        },
        "scores": [[label, *(scores[name][key] for key in ("j", "f", "jf"))] for name, label in story.models.items()],
        "curves": _curves(out, story.stages),
        "pictures": {caption: data_uri(path.read_bytes(), kind) for path, kind, caption in _pictures(out)},
        "packages": [[name, f"{size / 2**20:.2f} MiB"] for name, size in summary["packages"].items()],
        "precision": summary["precision"],
        "refused": records["export"]["refused"],
        "times": [
            [titles[name], f"{record['seconds']:.0f} s", "resumed; the time since" if record["resumed"] else ""]
            for name, record in records.items()
        ],
        "versions": ", ".join(f"{name} {value}" for name, value in summary["versions"].items()),
    }
    return write_text(out / "report.html", render("demo.html", values))


def _curves(out: Path, stages: Mapping[str, str]) -> str:
    """Losses and agreement with the teacher, a column a stage."""
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    grid = figure.subplots(len(CURVES), len(stages), squeeze=False)
    for column, (name, label) in enumerate(stages.items()):
        lines = read_lines(out / name / "curves.jsonl")
        for axes, (title, keys) in zip(grid[:, column], CURVES.items()):
            for number, (key, word) in enumerate(keys.items()):
                points = [(line[STEP], line[key]) for line in lines if line.get(key) is not None]
                if points:
                    steps, values = zip(*points)
                    axes.plot(steps, _smoothed(values), label=word, linewidth=1.3, color=colour_of(number))
            _finish(axes, x_title="step", y_title=title if column == 0 else "")
        grid[0, column].set_title(label, color=INK)
    return svg(figure)


def _finish(axes: Axes, *, x_title: str, y_title: str) -> None:
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    plain(axes)
    if axes.has_data():
        axes.legend(fontsize=7, labelcolor=INK, framealpha=0)
    else:
        axes.text(0.5, 0.5, "no teacher", ha="center", va="center", transform=axes.transAxes, color=INK)


def _smoothed(values: Sequence[float], *, weight: float = 0.8) -> list[float]:
    """Exponential moving average, started at the first value."""
    smooth, current = [], values[0]
    for value in values:
        current = weight * current + (1 - weight) * value
        smooth.append(current)
    return smooth


def _pictures(out: Path) -> Iterator[tuple[Path, str, str]]:
    """The first clips as student and teacher followed them, and the last panel of stage 2: file, kind, caption."""
    for name in ("student", "teacher"):
        for path in sorted((out / "evaluation" / name / "pictures").iterdir())[:3]:
            yield path, "jpeg", f"{name}, {path.stem}"
    for path in sorted((out / "stage2" / "panels").glob("*.png"))[-1:]:
        yield path, "png", "stage 2, last panel: frame, truth, student, teacher"
