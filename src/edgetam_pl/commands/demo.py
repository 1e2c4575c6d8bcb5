"""`make demo`: the whole job on generated data, on a CPU.

Toy shards, a small teacher trained on them, stage 1, stage 2 with F_M distillation, 16 and 32 frames, J&F of teacher and
student on held-out clips, Core ML packages, one report. Each part is an ordinary command of `edgetam`; a part that is
finished is not repeated, an interrupted one continues.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.commands.demo_report import write_report
from edgetam_pl.config import ExportConfig, ModelConfig, ShardsConfig, TrainConfig
from edgetam_pl.data.toy import toy_clip
from edgetam_pl.evaluation.vos import Clip, Report, evaluate_vos, repeat_first_mask
from edgetam_pl.export import ExportRefused
from edgetam_pl.export import run as export_packages
from edgetam_pl.io.environment import VERSION

HELD_OUT_SEED = 1_000_000
"""Held-out clips are drawn from seeds that no shard uses."""

OBJECTS = 4
"""Objects in a clip: more than the decoder has candidate masks. With three, three candidates that each took one object
would always have one that is right, and nothing would need to be remembered."""


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

    @property
    def student(self) -> Path:
        return self.out / "finetune" / "weights.pt"

    def parts(self) -> list[Part]:
        return [
            Part("shards_video", "shards of generated clips", lambda: self.shards("video")),
            Part("shards_image", "shards of generated images", lambda: self.shards("image")),
            Part("teacher", "a small teacher, trained without one", self.train_teacher),
            Part("stage1", "stage 1: images, L_img (Eq. 7)", self.train_stage1),
            Part("stage2", "stage 2: clips through the memory, L_img + L_mem (Eq. 8)", self.train_stage2),
            Part("finetune", "16, then 32 frames, encoder frozen, no teacher", self.finetune),
            Part("evaluate", "J&F on held-out clips", self.evaluate),
            Part("export", "Core ML packages", self.export),
        ]

    def shards(self, kind: str) -> dict[str, Any]:
        cfg, _ = composed(
            ShardsConfig,
            command="shards",
            overrides=["source=toy", f"out={self.out / 'shards' / kind}", *_scale(self.scale, f"shards_{kind}")],
        )
        from edgetam_pl.data.build import run as build_shards

        build_shards(cfg)
        manifest = json.loads((self.out / "shards" / kind / "manifest.json").read_text())
        return {"samples": manifest["samples"], "bytes": manifest["bytes"]}

    def train_teacher(self) -> dict[str, Any]:
        return self.train("teacher", ["model=toy_teacher", "stage=toy_teacher"])

    def train_stage1(self) -> dict[str, Any]:
        return self.train("stage1", ["model=toy", "stage=toy_image", *self._teacher()])

    def train_stage2(self) -> dict[str, Any]:
        words = ["model=toy", "stage=toy_video", f"weights={self.out / 'stage1' / 'weights.pt'}", *self._teacher()]
        return self.train("stage2", words)

    def finetune(self) -> dict[str, Any]:
        words = ["model=toy", "stage=toy_finetune", f"weights={self.out / 'stage2' / 'weights.pt'}"]
        return self.train("finetune", words)

    def train(self, name: str, words: list[str]) -> dict[str, Any]:
        from edgetam_pl.training.fit import run as train

        shards = [
            f"data.sources.0.shards={self.out / 'shards' / 'video'}",
            f"data.sources.1.shards={self.out / 'shards' / 'image'}",
        ]
        if name == "stage1":
            shards = [f"data.sources.0.shards={self.out / 'shards' / 'image'}"]
        data = "toy_images" if name == "stage1" else "toy"
        logs = ["logger.panels_every=40", "logger.log_every=10"]
        overrides = [*words, f"data={data}", *shards, f"out={self.out / name}", *logs, *_scale(self.scale, name)]
        cfg, _ = composed(TrainConfig, command="train", overrides=overrides)
        path = train(cfg)
        return {"weights": str(path.relative_to(self.out))}

    def evaluate(self) -> dict[str, Any]:
        clips = held_out_clips(self.held_out, frames=self.held_out_frames, size=_model("toy").image_size)
        torch.manual_seed(0)
        untrained = build_model(_model("toy"))
        candidates = {
            "teacher": _loaded("toy_teacher", self.out / "teacher" / "weights.pt"),
            "stage2": _loaded("toy", self.out / "stage2" / "weights.pt"),
            "student": _loaded("toy", self.student),
            "untrained": untrained.eval(),
        }
        reports = {name: evaluate_vos(model, clips, title=name) for name, model in candidates.items()}
        reports["repeat"] = repeat_first_mask(clips)
        for name, report in reports.items():
            report.write(self.out / "evaluation" / name)
        return {name: _scores(report) for name, report in reports.items()}

    def export(self) -> dict[str, Any]:
        """fp16 packages, or fp32 ones when the gate finds that rounding changes this student's answers too much."""
        refused: list[str] = []
        for precision in ("fp16", "fp32"):
            words = ["model=toy", f"weights={self.student}", f"out={self.out / 'packages'}", f"precision={precision}"]
            cfg, _ = composed(ExportConfig, command="export", overrides=[*words, *_scale(self.scale, "export")])
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

    def _teacher(self) -> list[str]:
        return ["model@teacher=toy_teacher", f"teacher_weights={self.out / 'teacher' / 'weights.pt'}"]


def main(argv: list[str]) -> int:
    """`edgetam pipeline [--out DIR]`: run or resume the demo."""
    parser = argparse.ArgumentParser(
        prog="edgetam pipeline",
        description="The whole job on generated data: shards, teacher, stage 1, stage 2, 16 and 32 frames, J&F, packages, "
        "report. Running it again continues where it stopped; --fresh starts over.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run directory (default: runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="remove the run directory first")
    parser.add_argument("--scale", default="demo", help="demo (default), or smoke: a few steps, to see that every part runs")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads (default 1: tensors this small do not share well)"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.fresh and args.out.exists():
        import shutil

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
        _write(path, records[part.name])
    summary = summarise(records)
    _write(demo.out / "summary.json", summary)
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
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions that matter for the figures, and the machine."""
    found = {"edgetam_pl": VERSION, "python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "torchvision", "lightning", "timm", "webdataset", "coremltools", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


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


def _loaded(name: str, path: Path) -> Any:
    model = build_model(_model(name))
    weights.load_into(model, path)
    return model.eval()


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


def _scores(report: Report) -> dict[str, float]:
    return {"j": report.j, "f": report.f, "jf": report.jf}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2))
    partial.replace(path)
