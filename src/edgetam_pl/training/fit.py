"""`edgetam train`: build, run phase after phase in one run directory, resume what was interrupted.

runs/train/
  config.yaml              the composed configuration
  run.json                 run id (kept over resumes and phases), versions, teacher
  curves.jsonl             every logged value, one line a step
  checkpoints/             phase1-step000100.ckpt ..., phase1-done.ckpt
  weights.pt               the trained model in the official layout
  packages/                when export_on_end is set
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger

import edgetam_pl
from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.config import ExportConfig, ModelConfig, TrainConfig
from edgetam_pl.training.curves import Curves
from edgetam_pl.training.datamodule import ShardDataModule
from edgetam_pl.training.distillation import STAGES, Distillation, Teacher
from edgetam_pl.training.export_callback import ExportOnFitEnd
from edgetam_pl.training.panels import MaskPanels
from edgetam_pl.training.phases import ProgressiveFrames, progress_of
from edgetam_pl.training.stopping import StopOnSignal, WholeCheckpoints
from edgetam_pl.training.throughput import Throughput


def run(cfg: TrainConfig) -> Path:
    """Train what `cfg` describes and return the path of the final weights (official layout).

    Running the same configuration again continues it: at the step it was stopped at, or at the next phase.

    Raises:
        ValueError: a configuration that cannot work, refused before anything is allocated.
    """
    check(cfg)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its greetings and hints say nothing of this run
    out = Path(cfg.out)
    module = build_module(cfg)
    datamodule = ShardDataModule(cfg.data, stage=cfg.stage, image_size=cfg.model.image_size, seed=cfg.seed)
    if cfg.dry_run:
        print(describe(cfg, module))
        return out / "weights.pt"

    progress = progress_of(out / "checkpoints", cfg.stage)
    if progress.checkpoint is not None and not progress.inside:
        weights.load_into(module.student, progress.checkpoint)
    logger = make_logger(cfg, out)
    try:
        for index in range(progress.phase, len(cfg.stage.phases)):
            resume = progress.checkpoint if progress.inside and index == progress.phase else None
            fit_phase(cfg, module, datamodule, index, logger=logger, resume=resume)
    finally:
        if isinstance(logger, WandbLogger):
            wandb.finish()  # or the next training of this process would log into this run
    final = out / "weights.pt"
    weights.save_official(module.student, final)
    return final


def check(cfg: TrainConfig) -> None:
    """Refuse what cannot work, naming keys and values."""
    stage = cfg.stage
    if stage.name not in STAGES:
        raise ValueError(f"stage.name is {stage.name!r}; use one of {', '.join(STAGES)}.")
    if not stage.phases:
        raise ValueError("stage.phases is empty; give at least one phase.")
    for number, phase in enumerate(stage.phases):
        for key in ("frames", "steps", "batch", "accumulate"):
            if (value := asdict(phase)[key]) < 1:
                raise ValueError(f"stage.phases[{number}].{key} is {value}; it must be at least 1.")
        if stage.name == "image" and phase.frames != 1:
            raise ValueError(f"stage=image trains on single frames; stage.phases[{number}].frames is {phase.frames}, use 1.")
        if phase.steps < stage.optim.warmup + stage.optim.cooldown:
            raise ValueError(
                f"stage.phases[{number}].steps is {phase.steps}, shorter than stage.optim.warmup + cooldown "
                f"({stage.optim.warmup} + {stage.optim.cooldown}); lengthen the phase or shorten the warm-up."
            )
    if cfg.weights is not None and cfg.trunk_weights is not None:
        raise ValueError(
            f"weights={cfg.weights} is a whole model and trunk_weights={cfg.trunk_weights} its trunk alone; give one of them."
        )
    if cfg.weights_for not in ("all", "images"):
        raise ValueError(f"weights_for is {cfg.weights_for!r}; use all, or images.")
    if (cfg.teacher is None) != (cfg.teacher_weights is None):
        raise ValueError(
            "A teacher needs both model@teacher=NAME and teacher_weights=FILE; "
            f"given: {'no' if cfg.teacher is None else cfg.teacher.name} teacher and weights {cfg.teacher_weights}."
        )
    if cfg.teacher is not None:
        ours, theirs = (cfg.model.dim, cfg.model.image_size), (cfg.teacher.dim, cfg.teacher.image_size)
        if ours != theirs:
            raise ValueError(
                f"The teacher's F16 has {theirs[0]} channels at {theirs[1]} px, the student's {ours[0]} at {ours[1]} px; "
                f"distillation compares them element by element, so set teacher.image_size={ours[1]} and equal dim."
            )


def build_module(cfg: TrainConfig) -> Distillation:
    """Student, teacher and stage as one LightningModule."""
    torch.manual_seed(cfg.seed)
    student = build_model(cfg.model)
    if cfg.weights is not None:
        load = weights.load_image_parts if cfg.weights_for == "images" else weights.load_into
        load(student, cfg.weights)
    if cfg.trunk_weights is not None:
        weights.load_trunk(student, cfg.trunk_weights)
    teacher = None
    if cfg.teacher is not None and cfg.teacher_weights is not None:
        teacher = load_teacher(cfg.teacher, cfg.teacher_weights)
    module = STAGES[cfg.stage.name](
        student,
        stage=cfg.stage,
        teacher=teacher,
        seed=cfg.seed,
        card={"model": asdict(cfg.model), "version": edgetam_pl.__version__},
        checkpointing=cfg.activation_checkpointing,
    )
    module.watch.folder = Path(cfg.out) / "forensics"
    module.gradient_shares_every = cfg.logger.gradient_shares_every
    return module


def load_teacher(model: ModelConfig, path: str) -> Teacher:
    teacher = build_model(model)
    weights.load_into(teacher, path)
    return Teacher(teacher, model.name, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def fit_phase(
    cfg: TrainConfig,
    module: Distillation,
    datamodule: ShardDataModule,
    index: int,
    *,
    logger: Logger | None,
    resume: Path | None,
) -> None:
    """One fit: one phase of the schedule, from its beginning or from a checkpoint inside it."""
    phase = cfg.stage.phases[index]
    progressive = ProgressiveFrames(cfg.stage.phases, index)
    trainer = L.Trainer(
        **{
            "max_steps": phase.steps,
            "max_epochs": 1,
            "accumulate_grad_batches": phase.accumulate,
            "gradient_clip_val": cfg.stage.optim.clip_norm or None,
            "default_root_dir": cfg.out,
            "logger": logger if logger is not None else False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "plugins": [WholeCheckpoints()],
            **cfg.trainer,
        },
        callbacks=[progressive, *callbacks(cfg, index)],
    )
    if trainer.is_global_zero:
        print(progressive.describe())
    trainer.fit(module, datamodule=datamodule, ckpt_path=None if resume is None else str(resume), weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def callbacks(cfg: TrainConfig, index: int) -> list[Callback]:
    """What watches and saves a phase."""
    folder, phase = Path(cfg.out) / "checkpoints", cfg.stage.phases[index]
    chosen: list[Callback] = [
        ModelCheckpoint(
            dirpath=folder,
            filename=f"phase{index + 1}-{{step:06d}}",
            every_n_train_steps=cfg.checkpoint_every,
            save_top_k=cfg.keep_checkpoints,
            monitor="step",
            mode="max",
            auto_insert_metric_name=False,
        ),
        PhaseDone(folder / f"phase{index + 1}-done.ckpt"),
        Throughput(),
        Curves(Path(cfg.out) / "curves.jsonl", every=cfg.logger.log_every),
    ]
    if cfg.trainer.get("enable_progress_bar", True):
        chosen.append(StepsBar(phase.steps * phase.accumulate))
    if cfg.logger.panels_every:
        chosen.append(MaskPanels(Path(cfg.out) / "panels", every=cfg.logger.panels_every))
    if cfg.validation.every:
        from edgetam_pl.training.validation import EvaluateDuringTraining

        chosen.append(EvaluateDuringTraining(cfg.validation, Path(cfg.out) / "validation"))
    if cfg.export_on_end and index == len(cfg.stage.phases) - 1:
        chosen.append(ExportOnFitEnd(ExportConfig(model=cfg.model, out=str(Path(cfg.out) / "packages"))))
    if cfg.stage.ema:
        chosen.append(EMAWeightAveraging(decay=cfg.stage.ema))
    return [*chosen, StopOnSignal(folder, index + 1)]  # the last, so that the others have written what they know


class StepsBar(TQDMProgressBar):
    """The progress of a phase: how many batches of how many, at what rate, and how long it will take."""

    def __init__(self, batches: int) -> None:
        super().__init__(refresh_rate=1)
        self.batches = batches

    @property
    def total_train_batches(self) -> int:
        return self.batches


class PhaseDone(Callback):
    """Writes the phase's last checkpoint, which is never pruned: the next phase starts from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.save_checkpoint(self.path)


def make_logger(cfg: TrainConfig, out: Path) -> Logger | None:
    """The logger of the whole run; W&B continues the run id recorded in run.json and is offline by default."""
    record = run_record(cfg, out)
    if cfg.logger.kind == "none":
        return None
    if cfg.logger.kind != "wandb":
        raise ValueError(f"logger.kind is {cfg.logger.kind!r}; use none or wandb.")
    mode = os.environ.get("WANDB_MODE", "offline")
    return WandbLogger(
        project=cfg.logger.project,
        save_dir=str(out),
        id=record["run_id"],
        resume="allow",
        offline=mode != "online",
        config=asdict(cfg),
        name=out.name,
    )


def run_record(cfg: TrainConfig, out: Path) -> dict[str, Any]:
    """run.json: written once, read on every resume, so that a run keeps its identity."""
    path = out / "run.json"
    if path.is_file():
        return json.loads(path.read_text())
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "run_id": secrets.token_hex(4),
        "edgetam_pl": edgetam_pl.__version__,
        "torch": torch.__version__,
        "lightning": L.__version__,
        "python": platform.python_version(),
        "config": asdict(cfg),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2))
    partial.replace(path)
    return record


def describe(cfg: TrainConfig, module: Distillation) -> str:
    """What `dry_run=true` prints: parts with parameters, what is trained, steps per phase."""
    lines = [f"model {cfg.model.name}, {cfg.model.image_size} px, stage {cfg.stage.name}"]
    for name, part in module.student.named_children():
        count = sum(p.numel() for p in part.parameters())
        lines.append(f"  {name:<18} {count:>12,} parameters")
    teacher = "none" if cfg.teacher is None else f"{cfg.teacher.name} from {cfg.teacher_weights}"
    lines.append(f"teacher {teacher}")
    lines += [ProgressiveFrames(cfg.stage.phases, index).describe() for index in range(len(cfg.stage.phases))]
    return "\n".join(lines)
