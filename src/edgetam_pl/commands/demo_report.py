"""The demo's one page: J&F, curves, overlays, package sizes. Everything is inlined; it opens without a network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from edgetam_pl.training.curves import STEP, read_lines

STAGES = {"teacher": "teacher", "stage1": "stage 1", "stage2": "stage 2", "finetune": "16 and 32 frames"}

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1d2330;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #dde2ea}
table{border-collapse:collapse;margin:.8rem 0} td,th{padding:.3rem .9rem .3rem 0;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} .cards{display:flex;gap:1rem;flex-wrap:wrap}
.card{border:1px solid #dde2ea;border-radius:8px;padding:.7rem 1.1rem;min-width:8rem} .card b{display:block;font-size:1.7rem}
.note{color:#5a6375;font-size:.92rem} img{max-width:100%;height:auto}
.grid{display:grid;grid-template-columns:1fr 1fr;gap:0 1.2rem} figure{margin:1rem 0} figcaption{color:#5a6375}
"""


def write_report(out: Path, summary: dict[str, Any], records: dict[str, dict[str, Any]], *, titles: dict[str, str]) -> Path:
    """Write `report.html` in `out` and return its path."""
    scores = records["evaluate"]
    cards = "".join(
        f'<div class="card">{label}<b>{scores[name]["jf"]:.1f}</b>J&amp;F</div>'
        for name, label in (
            ("student", "student"),
            ("teacher", "teacher"),
            ("repeat", "first mask repeated"),
            ("untrained", "student, untrained"),
        )
    )
    rows = "".join(
        f'<tr><td>{html.escape(label)}</td><td class="n">{s["j"]:.1f}</td><td class="n">{s["f"]:.1f}</td>'
        f'<td class="n">{s["jf"]:.1f}</td></tr>'
        for label, s in (
            ("teacher (no compression of the memory)", scores["teacher"]),
            ("student after stage 2", scores["stage2"]),
            ("student after 16 and 32 frames", scores["student"]),
            ("student, untrained", scores["untrained"]),
            ("first mask repeated on every frame", scores["repeat"]),
        )
    )
    times = "".join(
        f'<tr><td>{html.escape(titles[name])}</td><td class="n">{record["seconds"]:.0f} s</td>'
        f"<td>{'resumed; the time since' if record['resumed'] else ''}</td></tr>"
        for name, record in records.items()
    )
    packages = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="n">{size / 2**20:.2f} MiB</td></tr>'
        for name, size in summary["packages"].items()
    )
    versions = ", ".join(f"{name} {value}" for name, value in summary["versions"].items())
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>EdgeTAM-PL demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>EdgeTAM-PL: the whole job on generated data</h1>
<p class="note">A small teacher was trained on generated clips; a smaller student learned from it, first on images (stage 1),
then on clips through its memory (stage 2), then on 16 and 32 frames alone. The figures are J&amp;F on held-out clips, given
the first frame's mask, first and last frame not counted. They say that the machinery works, not how good EdgeTAM is.</p>
<div class="cards">{cards}<div class="card">wall-clock<b>{summary["seconds"] / 60:.1f}</b>minutes</div></div>
<h2>Accuracy on held-out clips</h2>
<table><tr><th></th><th class="n">J</th><th class="n">F</th><th class="n">J&amp;F</th></tr>{rows}</table>
<h2>Curves</h2>{_curves(out)}
<h2>Masks</h2><p class="note">frame, truth, prediction, error (blue: missed, red: too much)</p>
<div class="grid">{_overlays(out)}</div>
<h2>Packages for the phone</h2><table>{packages}</table>
<p class="note">{summary["precision"]}. Each package was loaded back and compared with the checkpoint, part by part and over
64 frames; the figures are in packages/manifest.json. Not run on Apple hardware.</p>{_refusal(records["export"]["refused"])}
<h2>Where the time went</h2><table>{times}</table>
<p class="note">{html.escape(versions)}</p></body></html>"""
    path = out / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text(page)
    partial.replace(path)
    return path


def _curves(out: Path) -> str:
    figure, axes = plt.subplots(2, len(STAGES), figsize=(13, 5.4), squeeze=False)
    for column, (name, label) in enumerate(STAGES.items()):
        lines = read_lines(out / name / "curves.jsonl")
        steps = [line[STEP] for line in lines]
        task, agree = axes[0][column], axes[1][column]
        task.set_title(label)
        for key in ("focal", "dice", "iou", "presence"):
            _plot(task, steps, [line.get(f"train/{key}") for line in lines], key)
        for key in ("agree/f16_cosine", "agree/f_m_cosine", "agree/f16_mse", "agree/f_m_mse"):
            _plot(agree, steps, [line.get(key) for line in lines], key.removeprefix("agree/"))
        for axis, title in ((task, "task losses"), (agree, "agreement with the teacher")):
            axis.set_xlabel("step")
            axis.grid(alpha=0.25)
            if axis.has_data():
                axis.legend(fontsize=7)
            else:
                axis.text(0.5, 0.5, "no teacher", ha="center", va="center", transform=axis.transAxes, color="0.5")
            if column == 0:
                axis.set_ylabel(title)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    caption = "losses and agreement with the teacher, by stage; losses are sums over frames and jump where clips get longer"
    return _figure(buffer.getvalue(), "png", caption)


def _plot(axis: Any, steps: list[float], values: list[float | None], label: str) -> None:
    points = [(step, value) for step, value in zip(steps, values) if value is not None]
    if points:
        xs, ys = zip(*points)
        axis.plot(xs, _smoothed(list(ys)), label=label, linewidth=1.3)


def _smoothed(values: list[float], *, weight: float = 0.8) -> list[float]:
    """Exponential moving average, started at the first value."""
    smooth, current = [], values[0]
    for value in values:
        current = weight * current + (1 - weight) * value
        smooth.append(current)
    return smooth


def _refusal(lines: list[str]) -> str:
    """Why fp16 was not shipped, if it was not."""
    if not lines:
        return ""
    said = "<br>".join(html.escape(line) for line in lines)
    return f'<p class="note">fp16 was tried first and refused, so these packages compute in fp32:<br>{said}</p>'


def _overlays(out: Path) -> str:
    """The first clips as the student and the teacher followed them, and the last panel of stage 2."""
    figures = []
    for name in ("student", "teacher"):
        pictures = sorted((out / "evaluation" / name / "pictures").iterdir())
        figures += [_image(path, f"{name}, {path.stem}") for path in pictures[:3]]
    panels = sorted((out / "stage2" / "panels").glob("*.png"))
    figures += [_image(path, "stage 2, last panel: frame, truth, student, teacher") for path in panels[-1:]]
    return "".join(figures)


def _image(path: Path, caption: str) -> str:
    return _figure(path.read_bytes(), {".jpg": "jpeg"}.get(path.suffix, path.suffix[1:]), caption)


def _figure(content: bytes, kind: str, caption: str) -> str:
    data, said = base64.b64encode(content).decode(), html.escape(caption)
    return f'<figure><img alt="{said}" src="data:image/{kind};base64,{data}"><figcaption>{said}</figcaption></figure>'
