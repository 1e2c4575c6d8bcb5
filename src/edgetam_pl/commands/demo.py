"""`make demo`: the whole job on generated data, on a CPU.

Toy shards, a small teacher trained on them, stage 1, stage 2 with F_M distillation, 16 and 32 frames, J&F of teacher and
student on held-out clips, Core ML packages, one report. Each part is an ordinary command of `edgetam`; a part that is
finished is not repeated, an interrupted one continues.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgetam_pl.build import load_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.demo_report import write_report
from edgetam_pl.config import ExportConfig, ModelConfig, ShardsConfig, TrainConfig
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.reporting import page
from edgetam_pl.evaluation.vos import evaluate_vos, repeat_first_mask
from edgetam_pl.exporting import ExportRefused
from edgetam_pl.exporting import export as export_packages
from edgetam_pl.io.atomic import write_json
from edgetam_pl.io.environment import versions

HELD_OUT_SEED = 1_000_000
"""Held-out clips are drawn from seeds that no shard uses."""

OBJECTS = 4
"""Objects in a clip: more than the decoder has candidate masks. With three, three candidates that each took one object
would always have one that is right, and nothing would need to be remembered."""

PACKAGES = ("torch", "torchvision", "lightning", "timm", "webdataset", "coremltools", "numpy")
"""Whose versions the summary names."""


@dataclass(frozen=True)
class Part:
    """One part of the demo: `run` does it and returns what the report wants to know (plain values)."""

    name: str
    title: str
    run: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Demo:
    """Where the demo lives and how large it is."""

    out: Path
    scale: str
    held_out: int
    held_out_frames: int

    def parts(self) -> list[Part]:
        teacher = ("model@teacher=toy_teacher", f"teacher_weights={self.weights('teacher')}")
        stage2 = ("model=toy", "stage=toy_video", f"weights={self.weights('stage1')}", *teacher)
        longer = ("model=toy", "stage=toy_finetune", f"weights={self.weights('stage2')}")
        return [
            Part("shards_video", "shards of generated clips", partial(self.shards, "video")),
            Part("shards_image", "shards of generated images", partial(self.shards, "image")),
            Part(
                "teacher", "a small teacher, trained without one",
                partial(self.train, "teacher", "model=toy_teacher", "stage=toy_teacher"),
            ),
            Part(
                "stage1", "stage 1: images, L_img (Eq. 7)",
                partial(self.train, "stage1", "model=toy", "stage=toy_image", *teacher),
            ),
            Part(
                "stage2", "stage 2: clips through the memory, L_img + L_mem (Eq. 8)", partial(self.train, "stage2", *stage2)
            ),
            Part(
                "finetune", "16, then 32 frames, encoder frozen, no teacher", partial(self.train, "finetune", *longer)
            ),
            Part("evaluate", "J&F on held-out clips", self.evaluate),
            Part("export", "Core ML packages", self.export),
        ]  # fmt: skip

    def weights(self, part: str) -> Path:
        """What a training leaves."""
        return self.out / part / "weights.pt"

    def shards(self, kind: str) -> dict[str, Any]:
        from edgetam_pl.data.build import run as build_shards

        folder = self.out / "shards" / kind
        overrides = ["source=toy", f"out={folder}", *_scale(self.scale, f"shards_{kind}")]
        build_shards(composed(ShardsConfig, command="shards", overrides=overrides)[0])
        manifest = json.loads((folder / "manifest.json").read_text())
        return {"samples": manifest["samples"], "bytes": manifest["bytes"]}

    def train(self, name: str, *words: str) -> dict[str, Any]:
        from edgetam_pl.training.fit import run as train

        kinds = ("image",) if name == "stage1" else ("video", "image")
        overrides = [
            *words,
            "data=toy_images" if name == "stage1" else "data=toy",
            *(f"data.sources.{number}.shards={self.out / 'shards' / kind}" for number, kind in enumerate(kinds)),
            f"out={self.out / name}", "logger.panels_every=40", "logger.log_every=10", *_scale(self.scale, name),
        ]  # fmt: skip
        path = train(composed(TrainConfig, command="train", overrides=overrides)[0])
        return {"weights": str(path.relative_to(self.out))}

    def evaluate(self) -> dict[str, Any]:
        student, teacher = _model("toy"), _model("toy_teacher")
        clips = held_out_clips(self.held_out, frames=self.held_out_frames, size=student.image_size)
        candidates = {
            "teacher": load_model(teacher, self.weights("teacher")),
            "stage2": load_model(student, self.weights("stage2")),
            "student": load_model(student, self.weights("finetune")),
            "untrained": load_model(student, "random", seed=0),
        }
        reports = {name: evaluate_vos(model, clips, title=name) for name, model in candidates.items()}
        reports["repeat"] = repeat_first_mask(clips)
        for name, report in reports.items():
            page.write_report(report, self.out / "evaluation" / name)
        return {name: {"j": report.j, "f": report.f, "jf": report.jf} for name, report in reports.items()}

    def export(self) -> dict[str, Any]:
        """fp16 packages, or fp32 ones when the gate finds that rounding changes this student's answers too much."""
        refused: list[str] = []
        for precision in ("fp16", "fp32"):
            words = ["model=toy", f"weights={self.weights('finetune')}", f"out={self.out / 'packages'}"]
            cfg, _ = composed(ExportConfig, command="export", overrides=[*words, f"precision={precision}"])
            try:
                report = export_packages(cfg)
            except ExportRefused as refusal:
                if precision == "fp32":
                    raise
                refused = str(refusal).splitlines()
                print(f"{refusal}\nfp16 was refused; fp32 packages are made instead.", flush=True)
                continue
            return {"packages": dict(report.sizes), "precision": report.precision, "refused": refused}
        raise AssertionError("fp32 either returns or raises")


def main(argv: list[str]) -> int:
    """`edgetam demo [--out DIR]`: run or resume the demo."""
    parser = argparse.ArgumentParser(
        prog="edgetam demo",
        description="The whole job on generated data: shards, teacher, stage 1, stage 2, 16 and 32 frames, J&F, packages, "
        "report. Running it again continues where it stopped; --fresh starts over.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run directory (default: runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="remove the run directory first")
    parser.add_argument("--scale", default="demo", help="demo (default), or smoke: a few steps, to see that every part runs")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads (default 1: tensors this small do not share well)"
    )
    args, others = parser.parse_known_args(argv)
    if others:
        parser.error(f"{' '.join(others)} is not known here; the page to click on a video is `edgetam app`")
    torch.set_num_threads(args.threads)
    if args.fresh and args.out.exists():
        shutil.rmtree(args.out)
    smoke = args.scale == "smoke"
    demo = Demo(args.out, args.scale, held_out=2 if smoke else 20, held_out_frames=4 if smoke else 24)
    print(json.dumps(run(demo), indent=2))
    return 0


def run(demo: Demo) -> dict[str, Any]:
    """Run the parts that are not finished; write report.html and summary.json; return the summary."""
    records: dict[str, dict[str, Any]] = {}
    parts = demo.parts()
    for number, part in enumerate(parts, start=1):
        path = demo.out / "parts" / f"{part.name}.json"
        if path.is_file():
            records[part.name] = json.loads(path.read_text())
            print(f"[{number}/{len(parts)}] {part.title}: finished before, {records[part.name]['seconds']:.0f} s")
            continue
        print(f"[{number}/{len(parts)}] {part.title}", flush=True)
        begun = path.with_suffix(".begun")
        resumed = begun.is_file()
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.touch()
        started = time.perf_counter()
        record = part.run()
        records[part.name] = {**record, "seconds": time.perf_counter() - started, "resumed": resumed}
        write_json(path, records[part.name])
    summary = summarise(records)
    write_json(demo.out / "summary.json", summary)
    write_report(demo.out, summary, records, titles={part.name: part.title for part in parts})
    return summary


def summarise(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a program wants to know of the run."""
    scores = records["evaluate"]
    return {
        "teacher_jf": scores["teacher"]["jf"],
        "student_jf": scores["student"]["jf"],
        "stage2_jf": scores["stage2"]["jf"],
        "untrained_jf": scores["untrained"]["jf"],
        "repeat_jf": scores["repeat"]["jf"],
        "seconds": round(sum(record["seconds"] for record in records.values()), 1),
        "resumed": [name for name, record in records.items() if record["resumed"]],
        "packages": records["export"]["packages"],
        "precision": records["export"]["precision"],
        "versions": versions(PACKAGES),
    }


def held_out_clips(count: int, *, frames: int, size: int) -> list[Clip]:
    """Generated clips that no shard holds; objects that the first frame shows."""
    clips = []
    for number in range(count):
        images, masks = toy_clip(HELD_OUT_SEED + number, num_frames=frames, size=size, num_objects=OBJECTS)
        shown = [o for o in range(masks.shape[1]) if masks[0, o].any()]
        clips.append(Clip.of_arrays(f"held-out-{number:03d}", images, masks[:, shown]))
    return clips


def _model(name: str) -> ModelConfig:
    return composed(TrainConfig, command="train", overrides=[f"model={name}"])[0].model


def _scale(scale: str, part: str) -> list[str]:
    """The overrides of one part at one scale; the demo's own sizes live in the stage files."""
    if scale == "demo":
        return _DEMO.get(part, [])
    if scale != "smoke":
        raise ValueError(f"--scale is {scale!r}; use demo or smoke.")
    return _SMOKE.get(part, [])


_DEMO = {
    "shards_video": ["clips=400", "frames=32", f"objects={OBJECTS}"],
    "shards_image": ["clips=800", "frames=1", f"objects={OBJECTS}"],
}
_SMOKE = {
    "shards_video": ["clips=6", "frames=32", f"objects={OBJECTS}"],
    "shards_image": ["clips=8", "frames=1", f"objects={OBJECTS}"],
    **{
        name: ["stage.optim.warmup=0", "stage.optim.cooldown=0", "stage.phases=" + phases]
        for name, phases in {
            "teacher": "[{frames:2,steps:2,batch:1}]",
            "stage1": "[{frames:1,steps:2,batch:2}]",
            "stage2": "[{frames:2,steps:2,batch:1}]",
            "finetune": "[{frames:3,steps:1,batch:1,freeze_encoder:true,distil:false},"
            "{frames:4,steps:1,batch:1,freeze_encoder:true,distil:false}]",
        }.items()
    },
}
