"""A page for a run, runs/NAME/report.html: how training goes, from the files of its folder. It opens without a network.

Written every minute, at validations and at the end; while training goes on it loads itself again. The same values as a
table, curves.csv, where logger=csv asks for it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from PIL import Image

from edgetam_pl.config import TrainConfig
from edgetam_pl.evaluation.reporting.charts import Chart, Line, chart
from edgetam_pl.evaluation.reporting.page import data_uri, render
from edgetam_pl.evaluation.reporting.pictures import encode_jpeg
from edgetam_pl.evaluation.vos import repeat_first_mask
from edgetam_pl.io.atomic import write_json, write_text
from edgetam_pl.io.overlay import colour_of
from edgetam_pl.training.best import SCORE, read_best
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.record import record_of
from edgetam_pl.training.validation import CLIPS

if TYPE_CHECKING:
    from edgetam_pl.training.distillation import Distillation

PAGE, TABLE = "report.html", "curves.csv"
REPEAT = "first mask repeated"
PANELS = 2
"""Of the newest mask panels."""
POINTS = 240
"""Of a line at most: of more values the means of equal stretches are drawn, which also makes them smooth."""
SECONDS, SHARE_OF_TIME = 60, 0.02
"""Between two pages at least, and the share of training that drawing may take; the end of a phase is drawn in any case."""

Curve = Mapping[str, float]


class RunPage(L.Callback):
    """Keeps the page of a run up to date, on rank 0."""

    def __init__(self, cfg: TrainConfig, *, last: bool = False) -> None:
        """`last`: of the last phase, whose end is drawn when the run is finished."""
        self.cfg, self.out, self.last = cfg, Path(cfg.out), last
        page = self.out / PAGE
        age = time.time() - page.stat().st_mtime if page.is_file() else SECONDS  # perhaps of the phase before
        self.next = time.monotonic() + SECONDS - age

    def on_validation_end(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        path = self.out / "validation" / "repeat.json"
        if trainer.is_global_zero and pl_module.validation is not None and not path.is_file():
            write_json(path, {"jf": repeat_first_mask(pl_module.validation.clips).jf})
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """By the clock, and not when a checkpoint is saved: a run that is told to stop has no time for pictures."""
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.last and trainer.global_step == trainer.max_steps:
            return
        self.next = 0.0
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        started = time.monotonic()
        if not trainer.is_global_zero or started < self.next:
            return
        write_files(self.cfg, live=True)
        self.next = time.monotonic() + max(SECONDS, (time.monotonic() - started) / SHARE_OF_TIME)


def write_files(cfg: TrainConfig, *, live: bool) -> None:
    """The page and the table of a run, as `logger` asks for them. What cannot be drawn is said; the training goes on."""
    out = Path(cfg.out)
    try:
        if cfg.logger.page:
            write_page(out, live=live)
        if cfg.logger.kind == "csv":
            write_table(out)
    except Exception as error:  # noqa: BLE001  (a page is not worth a training; its values are in curves.jsonl)
        print(f"{out / PAGE} was not written ({type(error).__name__}: {error}); the run goes on.", flush=True)


def write_page(out: Path, *, live: bool = False) -> Path:
    """report.html of a run directory, from curves.jsonl, validation/, panels/ and run.json; returns its path. `live`: it
    loads itself again every minute."""
    record = record_of(out)
    config = record.get("config", {})
    curves = read_lines(out / "curves.jsonl")
    scores = read_lines(out / "validation" / "jf.jsonl")
    repeat = _read(out / "validation" / "repeat.json").get("jf", math.nan)
    stage = config.get("stage", {})
    total = sum(phase["steps"] for phase in stage.get("phases", []))
    values = {
        "title": f"Training {out.name}",
        "live": live,
        "summary": _summary(config, record, total),
        "headline": _headline(curves, scores, repeat, read_best(out), total),
        "weights": record.get("weights", ""),
        "validation": _validation(scores, repeat, read_best(out)),
        "clips": _clips(read_lines(out / "validation" / CLIPS)),
        "worst": _worst(out),
        "panels": _panels(out / "panels"),
        "charts": [drawn for drawn in _charts(curves, stage) if drawn is not None],
        "faults": _faults(curves),
        "conditions": _conditions(config, record),
    }
    return write_text(out / PAGE, render("run.html", values))


def write_table(out: Path) -> Path:
    """curves.csv: a row a step with every value of training and validation, empty where there is none; returns its path."""
    rows: dict[float, dict[str, float]] = {}
    for line in [*read_lines(out / "curves.jsonl"), *read_lines(out / "validation" / "jf.jsonl")]:
        rows.setdefault(line[STEP], {}).update(line)
    names = sorted({name for row in rows.values() for name in row} - {STEP})
    text = io.StringIO()
    writer = csv.DictWriter(text, [STEP, *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    return write_text(out / TABLE, text.getvalue())


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _summary(config: Mapping[str, Any], record: Mapping[str, Any], total: int) -> str:
    if not config:
        return ""
    teacher = config.get("teacher")
    sources = ", ".join(source["name"] for source in config["data"]["sources"])
    parts = [
        f"{config['model']['name']}, {config['stage']['name']}, {total} steps on {sources}",
        f"taught by {teacher['name']}" if teacher else "no teacher",
        f"from {config['weights']}" if config.get("weights") else "from random weights",
        f"pipeline {record['pipeline']}" if record.get("pipeline") else "",
    ]
    return "; ".join(part for part in parts if part) + "."


def _headline(
    curves: Sequence[Curve], scores: Sequence[Curve], repeat: float, best: Mapping[str, Any] | None, total: int
) -> dict[str, float]:
    last = curves[-1] if curves else {}
    return {
        "best J&F": best["jf"] if best and best["jf"] is not None else math.nan,
        "last J&F": scores[-1][SCORE] if scores else math.nan,
        REPEAT: repeat,
        "% of the steps": 100 * last[STEP] / total if last and total else math.nan,
        "clips a second": last.get("speed/clips_per_s", math.nan),
    }


def _validation(scores: Sequence[Curve], repeat: float, best: Mapping[str, Any] | None) -> Chart | None:
    """J&F over steps, beside what no tracker at all reaches."""
    steps = [line[STEP] for line in scores]
    if not steps:
        return None
    lines = [Line("J&F", steps, [line[SCORE] for line in scores], colour_of(1))]
    if not math.isnan(repeat):
        lines.append(Line(REPEAT, [steps[0], steps[-1]], [repeat, repeat], colour_of(7)))
    if best and best["jf"] is not None:
        lines.append(Line(f"best, step {best['step']}", [best["step"]], [best["jf"]], colour_of(2)))
    return chart(lines, x_title="step", y_title="J&F of validation", width=720, height=240)


def _clips(lines: Sequence[Curve]) -> list[list[str | float]]:
    """A row for each clip: J&F at the first, the best and the last validation, the worst at the end first."""
    if not lines:
        return []
    rows: list[list[str | float]] = []
    for name in (name for name in lines[-1] if name != STEP):
        known = [line[name] for line in lines if name in line]
        rows.append([name, known[0], max(known), known[-1], known[-1] - known[0]])
    return sorted(rows, key=lambda row: (row[3], row[0]))


def _worst(out: Path) -> dict[str, str]:
    """Pictures of the clips that go worst, by name."""
    names = [str(row[0]) for row in _clips(read_lines(out / "validation" / CLIPS))]
    paths = sorted((out / "validation" / "worst").glob("*.jpg"), key=lambda path: int(path.stem))
    return {name: data_uri(path.read_bytes()) for name, path in list(zip(names, paths))[:3]}


def _panels(folder: Path) -> dict[str, str]:
    """The newest panels, by their step."""
    newest = sorted(folder.glob("step*.png"))[-PANELS:][::-1]
    return {
        f"step {int(path.stem[4:])}": data_uri(encode_jpeg(np.asarray(Image.open(path).convert("RGB")))) for path in newest
    }


def _charts(curves: Sequence[Curve], stage: Mapping[str, Any]) -> Iterable[Chart | None]:
    """Losses, their weighted shares, rates, gradients, agreement with the teacher, speed."""
    given = {name for line in curves for name, value in line.items() if value}  # without a teacher two terms are always 0
    weights = {name: value for name, value in stage.get("weights", {}).items() if value and f"train/{name}" in given}
    yield _chart(curves, "total loss", {"train/total": "total"}, logarithmic=True)
    yield _chart(curves, "losses, unweighted", {f"train/{name}": name for name in weights}, logarithmic=True)
    weighed = [
        {STEP: line[STEP], **{name: weights[name] * line.get(f"train/{name}", 0.0) for name in weights}} for line in curves
    ]
    shares = [
        {STEP: line[STEP], **{name: 100 * line[name] / whole for name in weights}}
        for line in weighed
        if (whole := sum(line[name] for name in weights)) > 0
    ]
    yield _chart(shares, "share of each weighted term, %", {name: name for name in weights}, y_range=(0, 100))
    pulls = {f"gradient_share/{name}": name for name in weights}
    yield _chart(curves, "share of each term in the gradient", pulls)
    yield _chart(curves, "learning rate", {"lr/max": "of most parts", "lr/min": "lowest"}, least_room=0)
    clip = stage.get("optim", {}).get("clip_norm") or math.nan
    clipped = [{**line, "clip": clip} for line in curves if "train/gradient_norm" in line]
    names = {"train/gradient_norm": "before clipping", "clip": f"clipped at {clip:g}"}
    yield _chart(clipped, "gradient norm", names, logarithmic=True)
    agree = {f"agree/{level}_cosine": word for level, word in (("f16", "F16"), ("f_m", "F_M"), ("f8", "F8"), ("f4", "F4"))}
    yield _chart(curves, "agreement with the teacher, cosine", agree, least_room=0.05)
    yield _chart(curves, "clips a second", {"speed/clips_per_s": "clips a second"}, least_room=0)
    yield _chart(curves, "seconds a step waits for data", {"speed/data_wait_s": "wait"}, least_room=0.05)
    yield _chart(curves, "peak memory, MiB", {"speed/peak_mib": "peak"})


def _chart(curves: Sequence[Curve], title: str, names: Mapping[str, str], **how: Any) -> Chart | None:
    """A chart of some values, thinned; those that never appear have no line."""
    lines = []
    for key, word in names.items():
        points = [(line[STEP], line[key]) for line in curves if key in line]
        if points:
            x, y = thinned(points)
            lines.append(Line(word, x, y, colour_of(len(lines))))
    return chart(lines, x_title="step", y_title=title, width=500, height=210, **how)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[list[float], list[float]]:
    """x and y of at most so many points, each the mean of a stretch.

    >>> thinned([(1, 4.0), (2, 6.0), (3, 0.0), (4, 2.0)], most=2)
    ([2.0, 4.0], [5.0, 1.0])
    """
    stretches = np.array_split(np.array(points, float), min(most, len(points)))
    return [float(part[-1, 0]) for part in stretches], [float(part[:, 1].mean()) for part in stretches]


def _faults(curves: Sequence[Curve]) -> list[list[str]]:
    """Samples that were left out since the phase began or was resumed, by cause."""
    last = curves[-1] if curves else {}
    prefix = "data/skipped/"
    return [
        [name.removeprefix(prefix), str(int(count))] for name, count in last.items() if name.startswith(prefix) and count
    ]


def _conditions(config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader needs to train the same."""
    if not config:
        return {}
    optim = config["stage"]["optim"]
    phases = "; ".join(
        f"{phase['frames']} frames, {phase['steps']} steps of {phase['batch']} clips a rank x {phase['accumulate']}"
        + (", encoder frozen" if phase["freeze_encoder"] else "")
        for phase in config["stage"]["phases"]
    )
    return {
        "command": "edgetam " + " ".join(record.get("command", [])),
        "phases": phases,
        "learning rate": f"{optim['lr']:g}, encoder {optim['encoder_lr'] or optim['lr']:g}, {optim['schedule']}",
        "data": ", ".join(f"{one['name']} ({one['weight']:g}, {one['shards']})" for one in config["data"]["sources"]),
        "validation": f"{config['validation']['root']} {config['validation'].get('split') or ''}".strip(),
        "trainer": ", ".join(f"{key} {value}" for key, value in config["trainer"].items()),
        "seed": config["seed"],
        "run": record.get("run_id", ""),
        "commit": record.get("git", {}).get("commit", ""),
    }
