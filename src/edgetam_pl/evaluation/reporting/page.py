"""The report as one page that needs no network: numbers, a table with the worst first, J and presence over time, pictures.

The pages of the project are the templates in `templates/`, with one style; here is what they are filled with.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgetam_pl.evaluation.reporting.charts import Chart, Lane, Line, chart
from edgetam_pl.evaluation.reporting.pictures import EXTRA, MISSED
from edgetam_pl.evaluation.reporting.report import Report, Sequence
from edgetam_pl.evaluation.scoring import ObjectScore
from edgetam_pl.io.atomic import write_json, write_text
from edgetam_pl.io.overlay import colour_of
from edgetam_pl.io.templates import templates

INLINE_BYTES = 16_000_000
"""Pictures up to this are part of the page; more of them stay in files beside it."""
LANES = 12
"""Objects whose presence is drawn, at most."""


def write_report(report: Report, folder: Path) -> Path:
    """report.html, report.json, result.json (for `make tables`) and pictures; returns the page. Files appear whole or not
    at all."""
    report.write(folder)
    write_json(folder / "result.json", report.summary(), indent=1)
    return write_text(folder / "report.html", report_page(report))


def report_page(report: Report) -> str:
    """HTML with everything inside, but for pictures where they are very many."""
    inline = sum(len(item.picture or b"") + len(item.film or b"") for item in report.sequences) <= INLINE_BYTES
    sequences = [found for item in report.sequences if (found := _sequence(report, item, inline=inline))]
    head, rows = objects_table(report)
    values = {
        "title": report.title,
        "summary": _summary(report),
        "headline": {**report.headline(), "frames a second": report.frames_per_second},
        "conditions": report.conditions,
        "curves": [drawn for drawn in _curves(report) if drawn is not None],
        "clicked": report.conditions.get("protocol") == "sa",
        "several": len(report.rounds) > 1,
        "scores": _scores(report),
        "head": head,
        "rows": rows,
        "sequences": sorted(sequences, key=lambda item: (item["score"], item["name"])),
    }
    return render("report.html", values)


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page of `templates/`, filled with values; what they hold is escaped."""
    return _PAGES.get_template(template).render(values)


def objects_table(report: Report) -> tuple[list[str], list[list[str | float]]]:
    """Head and rows, the worst first: a row an object; with several rounds, a column a round."""
    rounds = report.rounds
    if len(rounds) <= 1:
        held = _repeated(report)
        head, rows = ["sequence", "object", "J&F", "J", "F", *(["repeated"] if held else []), "nothing on"], []
        for row in report.worst_first():
            low = min(range(len(row.j)), key=row.j.__getitem__)
            means = [row.score, row.mean_j, row.mean_f, *([held[row.sequence, row.object]] if held else [])]
            none = "{} of {}".format(*row.unanswered) if row.shown else "-"
            rows.append([row.sequence, row.object, *means, none, str(len(row.j)), 100 * row.j[low], row.stems[low]])
        return [*head, "frames", "lowest J", "on frame"], rows
    unit = "@" if report.conditions.get("protocol") == "sa" else "n = "
    rows = [
        [*names, sum(scores.values()) / len(scores), *(scores.get(number, math.nan) for number in rounds)]
        for names, scores in report.by_object().items()
    ]
    head = ["sequence", "object", "mean", *(f"{unit}{number}" for number in rounds)]
    return head, sorted(rows, key=lambda row: (row[2], row[0], row[1]))


def _repeated(report: Report) -> dict[tuple[str, str], float]:
    """By sequence and object, the score of the first mask repeated; empty where it was not measured."""
    return {} if report.repeated is None else {(row.sequence, row.object): row.score for row in report.repeated.rows}


def _scores(report: Report) -> tuple[list[str], list[list[str | float]]] | None:
    """Head and rows of what this is measured against: the report itself, and the first mask repeated."""
    held = report.repeated
    if held is None:
        return None
    names = list(report.headline())
    ours, theirs = ([values.get(name, math.nan) for name in names] for values in (report.headline(), held.headline()))
    return ["", *names], [["this report", *ours], [held.title, *theirs]]


def over_time(lines: Iterable[tuple[str, str, Mapping[str, float]]], rows: Iterable[ObjectScore] = ()) -> Chart | None:
    """J over the frames that are scored: name, colour, and J in 0 ... 100 by frame, for each line; None for one frame. Below
    it the presence of the objects in `rows`, in truth and in the answer."""
    drawn = list(lines)
    stems = sorted({stem for _, _, values in drawn for stem in values}, key=lambda stem: (len(stem), stem))
    if len(stems) <= 1:
        return None
    every = [
        Line(name, range(len(stems)), [values.get(stem, math.nan) for stem in stems], colour)
        for name, colour, values in drawn
    ]
    lanes = []
    for number, row in list(enumerate(row for row in rows if row.shown))[:LANES]:
        there = {stem: both for stem, *both in zip(row.stems, row.shown, row.answered)}
        shown, answered = zip(*(there.get(stem, (False, False)) for stem in stems))
        lanes.append(Lane(colour_of(number), shown, answered))
    return chart(every, x_title="scored frame", y_title="J over time", y_range=(0, 100), width=720, height=170, lanes=lanes)


def data_uri(content: bytes, kind: str = "jpeg") -> str:
    """A picture as the `src` of an image."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _sequence(report: Report, item: Sequence, *, inline: bool) -> dict[str, Any] | None:
    """The section of a sequence; None where nothing of it is scored."""
    rows = [row for row in report.rows if row.sequence == item.name]
    last = [row for row in rows if row.round == max(report.rounds)]
    if not last:
        return None
    held = [score for (name, _), score in _repeated(report).items() if name == item.name]
    counts = f"{counted(item.num_frames, 'frame')}, {counted(item.num_objects, 'object')}"
    facts = [
        counts,
        f"{item.num_frames / max(item.seconds, 1e-9):.1f} frames a second",
        f"first mask repeated {sum(held) / len(held):.1f}" if held else "",
        _nothing(replace(report, rows=tuple(last))),
    ]
    return {
        "name": item.name,
        "score": sum(row.score for row in rows) / len(rows),
        "facts": "; ".join(fact for fact in facts if fact),
        "curve": over_time(
            (
                (f"object {row.object}", colour_of(number), {stem: 100 * j for stem, j in zip(row.stems, row.j)})
                for number, row in enumerate(last)
            ),
            last,
        ),
        "source": _source("pictures", item.name, item.picture, inline=inline),
        "film": _source("films", item.name, item.film, inline=inline),
    }


def _source(folder: str, name: str, content: bytes | None, *, inline: bool) -> str:
    """The `src` of a picture of a sequence; empty where there is none."""
    if content is None:
        return ""
    return data_uri(content) if inline else f"{folder}/{name}.jpg"


def _nothing(report: Report) -> str:
    """On how many frames nothing was answered, in words; empty where that is not known."""
    none, frames = report.unanswered
    return f"nothing answered on {none} of {frames} frames that show an object" if frames else ""


def _curves(report: Report) -> Iterable[Chart | None]:
    """Score over rounds, and over the time it takes a person to get there."""
    if len(report.rounds) <= 1:
        return
    rounds = [report.of_round(number) for number in report.rounds]
    scores = [r.score for r in rounds]
    clicks = report.conditions.get("protocol") == "sa"
    unit, score = ("clicks", "mIoU") if clicks else ("prompted frames", "J&F")
    yield chart([Line(score, report.rounds, scores)], x_title=unit, y_title=f"{score} over {unit}", markers=True)
    seconds = [sum(row.person_seconds for row in r.rows) / len(r.rows) for r in rounds]
    if any(seconds):
        x_title = "estimated annotation time of an object, seconds"
        lines = [Line(score, seconds, scores)]
        yield chart(lines, x_title=x_title, y_title=f"{score} over annotation time", markers=True)


def _summary(report: Report) -> str:
    parts = [
        counted(len(report.sequences), "sequence") if report.sequences else "",
        counted(len(report.by_object()), "object"),
        *(str(report.conditions.get(name, "")) for name in ("prompts", "frame_rule")),
        _nothing(report) if report.rows else "",
    ]
    return "; ".join(part for part in parts if part) + "."


def counted(number: int, thing: str) -> str:
    """A number with its noun: 1 object, 2 objects."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


_PAGES = templates("edgetam_pl.evaluation.reporting")
_PAGES.globals.update(missed=MISSED, extra=EXTRA)
_PAGES.filters.update(
    word=lambda value: ("yes" if value else "no") if isinstance(value, bool) else str(value),
    short=lambda value: (
        value if isinstance(value, str) else f"{value:.2g}" if 0 < abs(value) < 0.095 else f"{value:.1f}"
    ),  # 0.03 clips a second are not 0.0
    counted=counted,
    anchor=lambda name: "s-" + "".join(letter if letter.isalnum() else "-" for letter in name),
)
