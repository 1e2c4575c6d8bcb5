"""The table of docs/export.md: the full EdgeTAM and the shipped tracker in every format, converted, executed and judged.

    python benchmarks/packages.py                          # every row that has no result yet, then the table
    python benchmarks/packages.py --list
    python benchmarks/packages.py full-onnx-fp32 --again   # one row, also if it has a result
    python benchmarks/packages.py full-coreai-fp32 --frames 4 4 2   # shorter rollouts; the row says so
    python benchmarks/packages.py --table                  # the table alone, from the results that are there

A row is an export with the whole gate: 64 frames with occlusion and re-entry from a click, shorter rollouts from a box and
from a mask. It leaves a JSON file in experiments/results/005-packages, so that a run that was interrupted goes on where it
stopped. All rows of a model are measured by one process, so that torch's side of the gate is computed once. A format whose
packages are missing is a row that says so, and is tried again next time. Seconds are those of the processor, all threads
together: other programs hardly lengthen them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetam_pl.commands.bench import machine
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting import ExportRefused, ExportReport, export_packages
from edgetam_pl.exporting.backends import BACKENDS, backend_of
from edgetam_pl.exporting.client import PackagedTracker, RingBank
from edgetam_pl.exporting.extras import MissingExtra, installed_version
from edgetam_pl.exporting.gate.measures import iou
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.manifest import read
from edgetam_pl.exporting.parts import Program, Saved
from edgetam_pl.exporting.run import load
from edgetam_pl.io import shipped
from edgetam_pl.io.atomic import write_json, write_text
from edgetam_pl.io.label_png import read_labels
from edgetam_pl.io.tables import markdown_table
from edgetam_pl.io.video import open_video
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.frame_tracker import resized_frame
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import ImageFeatures, Prompts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments/results/005-packages"
PAGE = ROOT / "docs/export.md"
BEGIN, END = "<!-- packages:begin -->", "<!-- packages:end -->"

MODELS = {
    "full": ("full EdgeTAM, 1024 px, random weights", ["model=edgetam", "weights=random"]),
    "shipped": ("shipped tracker, 256 px", ["weights=shipped"]),
}
"""Title of each model, and the words of `edgetam export` that name it."""

PRECISION = {"coreml": "fp16"}
"""Where it isn't fp32: the precision that a format is judged in first."""

VARIANTS = {
    "coreml-int8": ["backend=coreml", "precision=fp16", "compression=int8"],
    "coreml-palette8": ["backend=coreml", "precision=fp16", "compression=palette8"],
    "coreml-palette6": ["backend=coreml", "precision=fp16", "compression=palette6"],
    "coreai-fp16": ["backend=coreai", "precision=fp16"],
    "coreai-int8": ["backend=coreai", "precision=fp32", "compression=int8"],
    "coreai-palette8": ["backend=coreai", "precision=fp32", "compression=palette8"],
    "coreai-state": ["backend=coreai", "precision=fp32", "+options.bank=state"],
    "executorch-coreml": ["backend=executorch", "precision=fp32", "+options.delegate=coreml"],
    "executorch-int8": ["backend=executorch", "precision=fp32", "compression=int8"],
    "onnx-fp16": ["backend=onnx", "precision=fp16"],
}
"""Further rows of both models."""

FRAMES = (GateConfig.frames, GateConfig.short_frames, 24)
"""Of the rollout from a click, of those from a box and from a mask, and of the example clip on which masks are compared."""

HEAD = ["model", "packages", "MB", "convert, s", "gate, s", "a part", "a step", "left to itself: click, box, mask",
        "lowest IoU",
        "real clip: mean, lowest IoU", "verdict", "executed by"]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One export."""

    name: str
    title: str
    words: tuple[str, ...]

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"


def rows() -> Iterator[Row]:
    """Every model in every format that is registered, then the variants."""
    plain = {
        f"{name}-{PRECISION.get(name, 'fp32')}": [f"backend={name}", f"precision={PRECISION.get(name, 'fp32')}"]
        for name in BACKENDS
    }
    for model, (title, words) in MODELS.items():
        for name, more in (plain | VARIANTS).items():
            yield Row(f"{model}-{name}", title, (*words, *more))


def main() -> int:
    args = _arguments()
    known = {row.name: row for row in rows()}
    if args.measure:
        measure([known[name] for name in args.rows], args.frames)
        return 0
    if unknown := sorted(set(args.rows) - set(known)):
        print(f"no rows {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [row for row in known.values() if row.name in args.rows or not args.rows]
    pending = []
    for row in chosen:
        done = row.path.is_file() and "missing" not in json.loads(row.path.read_text("utf-8"))
        print(f"{row.name}: {'has a result' if done else 'has none'}", flush=True)
        pending += [row.name] if args.again or not done else []
    for model in MODELS:
        names = [name for name in pending if name.startswith(f"{model}-")]
        if names and not (args.list or args.table):
            frames = [str(count) for count in args.frames]
            subprocess.run([sys.executable, __file__, *names, "--measure", "--frames", *frames], check=True)
    if not args.list:
        found = [(row, json.loads(row.path.read_text("utf-8"))) for row in known.values() if row.path.is_file()]
        text = table(found)
        write_text(RESULTS / "table.md", text)
        page = PAGE.read_text("utf-8")
        write_text(PAGE, f"{page[: page.index(BEGIN)]}{BEGIN}\n\n{text}\n{page[page.index(END) :]}")
        print(text)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="names of rows; none: all")
    parser.add_argument("--again", action="store_true", help="also rows that have a result")
    parser.add_argument("--list", action="store_true", help="the rows, and which have results")
    parser.add_argument("--table", action="store_true", help="the table, from the results that are there")
    parser.add_argument(
        "--frames", nargs=3, type=int, default=FRAMES, metavar=("LONG", "SHORT", "CLIP"),
        help=f"frames of the rollout from a click, of the two others, of the example clip (default {FRAMES})",
    )  # fmt: skip
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # what a model's own process does
    return parser.parse_args()


def measure(chosen: Sequence[Row], frames: Sequence[int]) -> None:
    """Export one model in several formats, and write down what came of each."""
    truth: Truth | None = None
    theirs: list[Tensor] = []
    for i, row in enumerate(chosen, start=1):
        print(f"[{i}/{len(chosen)}] {row.name}", flush=True)
        gate = [f"gate.frames={frames[0]}", f"gate.short_frames={frames[1]}"]
        cfg, _ = composed(ExportConfig, command="export", overrides=[*row.words, *gate, "golden=false"])
        backend = backend_of(cfg.backend)
        needs = [need.replace("_", "-") for need in backend.needs]
        result: dict[str, Any] = {
            "words": row.words,
            "frames_asked": list(frames),
            "runner": backend.executed(cfg),
            "versions": {name: installed_version(name) for name in ("torch", *needs)},
            "machine": machine(torch.device("cpu")),
            "torch_known": truth is not None,
        }
        model, checkpoint, _ = load(cfg)
        truth = Truth.of(model, cfg) if truth is None else truth
        try:
            result |= exported(model, cfg, checkpoint, truth, theirs, frames[2])
        except MissingExtra as missing:
            result |= {"missing": str(missing)}
        write_json(row.path, result, indent=None)


def exported(
    model: TrackAnything, cfg: ExportConfig, checkpoint: str, truth: Truth, theirs: list[Tensor], clip: int
) -> dict[str, Any]:
    """What an export gives, passed or refused. The packages themselves are thrown away.

    Args:
        theirs: torch's masks of the example clip; filled when they are first needed.
        clip: frames of it.
    """
    begin, backend = time.monotonic(), backend_of(cfg.backend)

    def note(text: str) -> None:
        print(f"  {time.monotonic() - begin:5.0f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "packages"
        try:
            report = export_packages(model, out, cfg, checkpoint=checkpoint, note=note, truth=truth)
            entries = read(out).parts
            saved = [Saved(truth.parts[entry.role], out / entry.file, entry.function) for entry in entries]
        except ExportRefused as refused:
            report = refused.report
            if cfg.compression == "none":
                return numbers(report)
            note("refused; once more for the example clip, because compression is judged on it")
            out.mkdir()
            saved = list(backend.convert(tuple(truth.parts.values()), out, cfg))
        note("the example clip")
        programs = {each.part.role: backend.load(each, rounded=True) for each in saved}
        theirs += tracked({role: part.run for role, part in truth.parts.items()}, truth, clip) if not theirs else []
        overlaps = [iou(one, two) for one, two in zip(tracked(programs, truth, clip), theirs, strict=True)]
        return numbers(report) | {"clip": {"mean": sum(overlaps) / len(overlaps), "least": min(overlaps)}}


def tracked(programs: Mapping[str, Program], truth: Truth, frames: int) -> list[Tensor]:
    """Masks (S/4, S/4) of the first frames of the example clip, from the given mask of its first frame."""
    size = truth.loop.size
    pictures = open_video(shipped.EXAMPLE / "JPEGImages/chair")
    labels = read_labels(shipped.EXAMPLE / "Annotations/chair/00000.png")
    given = torch.nn.functional.interpolate(torch.from_numpy(labels == 1)[None, None].float(), (size, size)) > 0
    tracker = PackagedTracker(programs, truth.loop)

    def features(t: int) -> ImageFeatures:
        return tracker.encode(resized_frame(pictures[t], size))

    bank: Any = RingBank(truth.loop)  # the same verbs as a MemoryBank
    outputs = rollout(tracker, features, Script({0: [Prompts(mask=given)]}), num_frames=frames, bank=bank)
    return [output.final.best[0, 0] > 0 for output in outputs]


def numbers(report: ExportReport) -> dict[str, Any]:
    """What the table shows of a report, and what failed."""
    parts = [row for what, row in report.worst.items() if "relative error (" in what]
    by_prompt = {
        prompt: [row for row in report.frames if row.rollout == prompt]
        for prompt in dict.fromkeys(f.rollout for f in report.frames)
    }
    return {
        "passed": report.passed,
        "failures": report.failures,
        "bytes": sum(report.sizes.values()),
        "seconds": report.seconds,
        "processor_seconds": report.processor_seconds,
        "peak_rss_mb": max(report.peak_rss_mb.values()),
        "answers": len(report.frames),
        "part": max(row["value"] for row in parts),
        "step": max(
            row["value"] for what, row in report.worst.items() if "relative error of the" in what and "," not in what
        ),
        "free": {prompt: max(row.free_candidates for row in found) for prompt, found in by_prompt.items()},
        "iou": min(min(row.iou, row.free_iou) for row in report.frames),
        "followed": sum(row.followed for row in report.frames),
        "worst": report.worst,
        "frames": [dataclasses.asdict(row) for row in report.frames],
    }


def table(found: list[tuple[Row, dict[str, Any]]]) -> str:
    """The results as Markdown."""
    return markdown_table(HEAD, (_cells(row, result) for row, result in found))


def _cells(row: Row, result: Mapping[str, Any]) -> list[str]:
    name = row.name.partition("-")[2].replace("-", " ")
    long, short, clip_frames = asked = tuple(result.get("frames_asked", FRAMES))
    if asked != FRAMES:
        name += f" (rollouts of {long}, {short} and {short} frames, clip of {clip_frames})"
    if "missing" in result:
        return [row.title, name, *[""] * (len(HEAD) - 4), f"not run: {result['missing']}", ""]
    spent, failures = result["processor_seconds"], result["failures"]
    verdict = "passed" if result["passed"] else f"**refused**, {len(failures)} numbers; {failures[0]}"
    free = ", ".join(f"{result['free'][prompt]:.1e}" for prompt in ("click", "box", "mask"))
    return [
        row.title,
        name,
        f"{result['bytes'] / 1e6:.1f}",
        f"{spent['convert']:.0f}",
        f"{spent['adapters'] + spent['gate']:.0f}",
        f"{result['part']:.1e}",
        f"{result['step']:.1e}",
        free,
        f"{result['iou']:.4f}",
        f"{clip['mean']:.4f}, {clip['least']:.4f}" if (clip := result.get("clip")) else "",
        verdict,
        result["runner"].partition(";")[0],
    ]


if __name__ == "__main__":
    raise SystemExit(main())
