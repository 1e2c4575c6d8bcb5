"""The report as one page that needs no network: numbers, conditions, a table with the worst first, J over time, pictures."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

from edgetam_pl.evaluation.reporting.charts import COLOURS, Line, chart
from edgetam_pl.evaluation.reporting.report import Report, Sequence

INLINE_BYTES = 16_000_000
"""Pictures up to this are part of the page; more of them stay in files beside it."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #d9dee6; --paper: #fff; --tint: #f4f6f9;
  --mark: #2b6cb0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa6b6; --line: #36404e; --paper: #151a21; --tint: #1e252f; --mark: #6fb0f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 40px 0 10px; }
h3 { font-size: 16px; margin: 0; }
p, .note { color: var(--soft); margin: 4px 0 12px; max-width: 75ch; }
a { color: var(--mark); text-decoration: none; } a:hover { text-decoration: underline; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.tile { background: var(--tint); border: 1px solid var(--line); border-radius: 8px; padding: 10px 18px; min-width: 110px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; min-width: 420px; }
th, td { padding: 4px 14px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--tint); } th.word, td.word { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort=ascending] button::after { content: " \\25B2"; font-size: 10px; }
th[aria-sort=descending] button::after { content: " \\25BC"; font-size: 10px; }
td.bad { color: #c53030; } td.good { color: #2f855a; }
section.sequence { border-top: 1px solid var(--line); padding: 18px 0 10px; }
section.sequence > header { display: flex; gap: 14px; align-items: baseline; flex-wrap: wrap; margin-bottom: 6px; }
section.sequence > header span { color: var(--soft); font-size: 13px; }
.heads { display: grid; grid-template-columns: repeat(4, 1fr); max-width: 972px; color: var(--soft); font-size: 13px; }
img { display: block; max-width: 100%; height: auto; }
figure { margin: 0 0 12px; } .charts { display: flex; flex-wrap: wrap; gap: 8px 28px; }
.chartbox { max-width: 100%; } figcaption { color: var(--soft); font-size: 13px; }
.chart { width: 100%; height: auto; display: block; } .grid { stroke: var(--line); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 10.5px; } .axis { fill: var(--soft); font-size: 11.5px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; color: var(--soft); padding-left: 38px; }
.legend i, .key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px;
  vertical-align: -1px; }
.key span { margin-right: 14px; }
@media print { th button::after { content: none !important; } section.sequence { break-inside: avoid; } }
"""

SCRIPT = """
document.querySelectorAll('th button').forEach(button => button.addEventListener('click', () => {
  const th = button.closest('th'), table = th.closest('table'), column = [...th.parentNode.children].indexOf(th);
  const up = th.getAttribute('aria-sort') !== 'ascending';
  th.parentNode.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const body = table.tBodies[0];
  [...body.rows].sort((a, b) => {
    const [x, y] = [a, b].map(row => row.cells[column].dataset.v ?? row.cells[column].textContent);
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
    return up ? order : -order;
  }).forEach(row => body.append(row));
}));
"""

_LABELS = {
    "protocol": "Protocol", "prompt": "Prompt", "prompts": "Prompts", "set": "Folder", "label": "Label", "rule": "Rule",
    "frame_rule": "Frames scored", "non_overlap": "One object a pixel",
    "resolution": "Input side", "data": "Data", "note": "Note", "num_sequences": "Sequences", "num_objects": "Objects",
    "num_scored_frames": "Frames scored, in all", "list_hash": "Hash of the list", "data_hash": "Hash of the data",
    "weights": "Weights", "weights_hash": "Hash of the weights", "model": "Model", "precision": "Precision",
    "device": "Device", "version": "edgetam-pl", "torch": "torch", "date": "Date",
}  # fmt: skip


def page(report: Report) -> str:
    """HTML with everything inside, but for pictures where they are very many."""
    inline = sum(len(item.picture or b"") for item in report.sequences) <= INLINE_BYTES
    worst = sorted(report.sequences, key=lambda item: (_sequence_score(report, item.name), item.name))
    return document(
        report.title,
        [
            f"<h1>{html.escape(report.title)}</h1>",
            f"<p>{html.escape(_summary(report))}</p>",
            tiles({**report.headline(), "frames a second": report.frames_per_second}),
            f"<h2>Conditions</h2>{conditions(report.conditions)}" if report.conditions else "",
            _curves(report),
            f"<h2>Sequences and objects</h2><p>The worst first. {_what_scores_are(report)}</p>",
            objects_table(report),
            f"<h2>Pictures</h2>{_legend()}" if report.sequences else "",
            *(_sequence(report, item, inline=inline) for item in worst),
        ],
    )


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page around its parts."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main><script>{SCRIPT}</script></body></html>"
    )


def tiles(values: dict[str, float]) -> str:
    """Large numbers with a word under each."""
    shown = {name: value for name, value in values.items() if not math.isnan(value)}
    inner = "".join(
        f'<div class="tile"><b>{value:.1f}</b><span>{html.escape(name)}</span></div>' for name, value in shown.items()
    )
    return f'<div class="tiles">{inner}</div>'


def conditions(values: Mapping[str, Any]) -> str:
    """What a reader needs to get the same numbers."""
    rows = "".join(
        f"<dt>{html.escape(_LABELS.get(name, name))}</dt><dd>{html.escape(_word(value))}</dd>"
        for name, value in values.items()
        if value not in ("", None)
    )
    return f"<dl>{rows}</dl>"


def table(head: list[str], rows: list[list[str | float]], *, words: int, sorted_by: int, link: bool = True) -> str:
    """A table to be sorted by any column. The first `words` columns hold words, of which the first leads to its section."""
    cells = []
    for number, name in enumerate(head):
        kind = ' class="word"' if number < words else ""
        order = ' aria-sort="ascending"' if number == sorted_by else ""
        cells.append(f"<th{kind}{order}><button>{html.escape(name)}</button></th>")
    body = []
    for row in rows:
        line = []
        for number, value in enumerate(row):
            if isinstance(value, str):
                inner = html.escape(value)
                if number == 0 and link:
                    inner = f'<a href="#{anchor(value)}">{inner}</a>'
                line.append(f"<td{' class=' + chr(34) + 'word' + chr(34) if number < words else ''}>{inner}</td>")
            elif math.isnan(value):
                line.append('<td data-v="-1">&ndash;</td>')
            else:
                line.append(f'<td data-v="{value:.6f}">{value:.1f}</td>')
        body.append(f"<tr>{''.join(line)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{"".join(cells)}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def objects_table(report: Report) -> str:
    """A row an object; with several rounds, a column a round."""
    rounds = report.rounds
    if len(rounds) <= 1:
        head = ["sequence", "object", "J&F", "J", "F", "frames", "lowest J", "on frame"]
        rows: list[list[str | float]] = []
        for row in report.worst_first():
            low = min(range(len(row.j)), key=row.j.__getitem__)
            numbers: list[str | float] = [
                row.score,
                row.mean_j,
                row.mean_f,
                str(len(row.j)),
                100 * row.j[low],
                row.stems[low],
            ]
            rows.append([row.sequence, row.object, *numbers])
        return table(head, rows, words=2, sorted_by=2)
    by_object: dict[tuple[str, str], dict[int, float]] = {}
    for row in report.rows:
        by_object.setdefault((row.sequence, row.object), {})[row.round] = row.score
    unit = "@" if report.conditions.get("protocol") == "sa" else "n = "
    head = ["sequence", "object", "mean", *(f"{unit}{number}" for number in rounds)]
    rows = [
        [*names, sum(scores.values()) / len(scores), *(scores.get(number, math.nan) for number in rounds)]
        for names, scores in by_object.items()
    ]
    return table(head, sorted(rows, key=lambda row: (row[2], row[0], row[1])), words=2, sorted_by=2)


def over_time(lines: Iterable[tuple[str, str, Mapping[str, float]]]) -> str:
    """J over the frames that are scored: name, colour, and J in 0 ... 100 by frame, for each line; empty for one frame."""
    drawn = list(lines)
    stems = sorted({stem for _, _, values in drawn for stem in values}, key=lambda stem: (len(stem), stem))
    if len(stems) <= 1:
        return ""
    every = [
        Line(name, range(len(stems)), [values.get(stem, math.nan) for stem in stems], colour)
        for name, colour, values in drawn
    ]
    return chart(every, x_title="scored frame", y_title="J over time", y_range=(0, 100), width=720, height=170)


def picture(item: Sequence, *, inline: bool) -> str:
    """Frame, truth, prediction and error."""
    if item.picture is None:
        return ""
    source = f"data:image/jpeg;base64,{base64.b64encode(item.picture).decode()}" if inline else f"pictures/{item.name}.jpg"
    heads = "".join(f"<span>{head}</span>" for head in ("frame", "truth", "prediction", "error"))
    alt = html.escape(f"frame, truth, prediction and error of {item.name}")
    return f'<div class="heads">{heads}</div><img loading="lazy" alt="{alt}" src="{html.escape(source)}">'


def _sequence(report: Report, item: Sequence, *, inline: bool) -> str:
    last = max(report.rounds, default=0)
    rows = [row for row in report.rows if row.sequence == item.name and row.round == last]
    if not rows:
        return ""
    curve = over_time(
        (f"object {row.object}", COLOURS[number % len(COLOURS)], {stem: 100 * j for stem, j in zip(row.stems, row.j)})
        for number, row in enumerate(rows)
    )
    speed = item.num_frames / max(item.seconds, 1e-9)
    counts = f"{_counted(item.num_frames, 'frame')}, {_counted(item.num_objects, 'object')}"
    facts = f"{counts}, {speed:.1f} frames a second"
    name, score = html.escape(item.name), _sequence_score(report, item.name)
    header = f"<header><h3>{name}</h3><b>{score:.1f}</b><span>{facts}</span></header>"
    return f'<section class="sequence" id="{anchor(item.name)}">{header}{curve}{picture(item, inline=inline)}</section>'


def _curves(report: Report) -> str:
    """Score over rounds, and over the time it takes a person to get there."""
    if len(report.rounds) <= 1:
        return ""
    rounds = [report.of_round(number) for number in report.rounds]
    scores = [r.score for r in rounds]
    clicks = report.conditions.get("protocol") == "sa"
    unit, score = ("clicks", "mIoU") if clicks else ("prompted frames", "J&F")
    figures = [chart([Line(score, report.rounds, scores)], x_title=unit, y_title=f"{score} over {unit}", markers=True)]
    seconds = [sum(row.person_seconds for row in r.rows) / len(r.rows) for r in rounds]
    if any(seconds):
        title = "estimated annotation time of an object, seconds"
        figures.append(
            chart([Line(score, seconds, scores)], x_title=title, y_title=f"{score} over annotation time", markers=True)
        )
    return f'<h2>Curves</h2><div class="charts">{"".join(figures)}</div>'


def _summary(report: Report) -> str:
    said = report.conditions
    parts = [
        _counted(len(report.sequences), "sequence") if report.sequences else "",
        _counted(len({(row.sequence, row.object) for row in report.rows}), "object"),
        str(said.get("prompts", "")),
        str(said.get("frame_rule", "")),
    ]
    return "; ".join(part for part in parts if part) + "."


def _what_scores_are(report: Report) -> str:
    if report.conditions.get("protocol") == "sa":
        return "IoU of each mask after so many clicks."
    each = "Means over the frames that are scored, 0 to 100."
    return f"{each} Columns are J&amp;F with at most so many prompted frames." if len(report.rounds) > 1 else each


def _legend() -> str:
    return (
        '<p class="key"><span>Error: </span><span><i style="background:rgb(40,120,255)"></i>missed</span>'
        '<span><i style="background:rgb(255,70,40)"></i>too much</span>'
        "Objects keep their colour in truth, prediction and curve. Rows: the first scored frame, the worst, the last.</p>"
    )


def _sequence_score(report: Report, name: str) -> float:
    scores = [row.score for row in report.rows if row.sequence == name]
    return sum(scores) / len(scores) if scores else math.nan


def anchor(name: str) -> str:
    """Of a sequence's section."""
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in name)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
