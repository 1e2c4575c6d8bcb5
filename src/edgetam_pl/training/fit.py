"""`edgetam train`: build, run phase after phase in one run directory, resume what was interrupted.

runs/train/
  config.yaml              the composed configuration
  run.json                 run id (kept over resumes and phases), versions, settings, what was changed and when
  curves.jsonl             every logged value, one line a step
  report.html              how training goes, up to date
  checkpoints/             phase1-step000100.ckpt ..., phase1-done.ckpt
  weights.pt               the trained model in the official layout: the best by validation, or the last (best.py)
  packages/                when export_on_end is set
"""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.config import ExportConfig, TrainConfig
from edgetam_pl.inference import products
from edgetam_pl.inference.compiled import compile_parts
from edgetam_pl.inference.lean_layers import use_lean_layers
from edgetam_pl.inference.memory_block import use_lean_blocks
from edgetam_pl.inference.onednn import use_onednn
from edgetam_pl.io import stop
from edgetam_pl.io.environment import VERSION, keep_freed_pages
from edgetam_pl.io.locks import folder_lock
from edgetam_pl.io.processes import LAUNCHER, follow_launcher
from edgetam_pl.training.activation_checkpointing import MemoryOptions
from edgetam_pl.training.best import WEIGHTS, BestWeights, ended_early, save_weights, with_validation
from edgetam_pl.training.check import check, check_data, in_this_world, with_accumulation
from edgetam_pl.training.curves import Curves
from edgetam_pl.training.datamodule import ShardDataModule
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.export_at_end import PACKAGES, export_at_end, is_exported
from edgetam_pl.training.launch import requeue, submit
from edgetam_pl.training.panels import MaskPanels
from edgetam_pl.training.phases import ProgressiveFrames
from edgetam_pl.training.preemption import AtomicCheckpoints, StopOnSignal
from edgetam_pl.training.quiet import silence_expected
from edgetam_pl.training.record import is_rank_zero
from edgetam_pl.training.run_folder import LOCK, Start, say, survey
from edgetam_pl.training.run_page import RunPage, write_files
from edgetam_pl.training.teachers import load_match, load_teachers, views_of
from edgetam_pl.training.throughput import Throughput
from edgetam_pl.training.trainer import accelerator_of, require_devices, trainer_arguments
from edgetam_pl.training.validation import NEVER, ValidateEvery, ValidateOwed, Validation
from edgetam_pl.training.wandb_runs import finish, git_state, keep_artifacts, make_logger, mode, note

LIMITS = ("max_steps", "max_epochs", "max_time", "limit_train_batches", "overfit_batches", "fast_dev_run")
"""Arguments of Trainer that end a phase before its steps are done."""


@stop.listening(together=True)
def run(cfg: TrainConfig) -> Path:
    """Train what `cfg` describes and return the path of the final weights (official layout).

    Running the same configuration again continues it: at the step it was stopped at, or at the next phase. A finished run
    stays as it is.

    Raises:
        ValueError: a configuration that cannot work, or that is not the one that the folder's run was begun with, refused
            before anything is allocated; another process trains in this folder; or a phase ended before its steps were done.
        SystemExit: a signal asked for the end (`io.stop`).
    """
    follow_launcher()
    cfg = in_this_world(cfg)
    check(cfg)
    if cfg.logger.kind == "wandb":
        mode()  # refuses an unknown one
    if cfg.launcher.kind == "slurm":
        submit(cfg, train_in_job)
        return Path(cfg.out) / WEIGHTS
    require_devices(cfg.trainer)
    check_data(cfg)
    cfg = with_validation(with_accumulation(cfg))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its hints say nothing of this run
    silence_expected()
    out = Path(cfg.out)
    if cfg.dry_run:
        survey(cfg)
        print(describe(cfg, build_module(cfg)))
        return out / WEIGHTS
    with folder_lock(out, name=LOCK, wait=False) if is_rank_zero() else nullcontext():
        go_on(survey(cfg))
    return out / WEIGHTS


def go_on(start: Start) -> None:
    """Train what is left to train, from where the run stands, and leave its weights."""
    cfg, out, progress = start.cfg, start.out, start.progress
    export_due = cfg.export_on_end and not is_exported(out)
    early = is_over(cfg)
    over = start.finished or early
    if over and not is_rank_zero():
        return
    whole = over and start.weights_are_whole()
    if whole and not (export_due or start.changes):
        if start.finished:
            say(f"{out} was finished before, with these settings; there is nothing to do.")
        else:
            say(f"{out} was ended before, as validation got no better; with validation.patience=0 it goes on.")
        return
    if start.record is not None:
        products.prefer(start.record.content.get("products"))
    module = build_module(cfg)
    module.card["run"] = {"id": start.begin(trains=not over), "settings": dict(start.identity.settings)}
    if (early or not progress.inside) and (begins_from := progress.checkpoint or (start.finished and out / WEIGHTS)):
        weights.load_into(module.student, begins_from)
        load_match(module.match, begins_from)
    if over:
        if not whole:
            finish_run(start, module, trained=False)
        if export_due:
            export_at_end(module.student, export_config(cfg))
        return
    if module.validation is not None:
        module.validation.hold_clips()
    datamodule = ShardDataModule(
        cfg.data,
        stage=cfg.stage,
        image_size=cfg.model.image_size,
        seed=cfg.seed,
        validation=module.validation,
        views=views_of(cfg),
    )
    stop.defer()  # from here on a stop is a matter of all ranks, between two steps
    os.environ[LAUNCHER] = str(os.getpid())  # for ranks that Lightning starts
    logger = make_logger(cfg, out)
    try:
        for index in range(progress.phase, len(cfg.stage.phases)):
            if is_over(cfg):
                break
            resume = progress.checkpoint if progress.inside and index == progress.phase else None
            fit_phase(cfg, module, datamodule, index, logger=logger, resume=resume)
        finish_run(start, module, trained=True)
        if cfg.export_on_end:
            export_at_end(module.student, export_config(cfg), logger)
        keep_artifacts(cfg, logger)
    finally:
        os.environ.pop(LAUNCHER)
        finish(logger)


def is_over(cfg: TrainConfig) -> bool:
    """Was this run ended because validation got no better, and is it to stay so?"""
    return bool(cfg.validation.patience) and ended_early(Path(cfg.out))


def finish_run(start: Start, module: Distillation, *, trained: bool) -> None:
    """Save the weights and write down that the run is finished, on rank 0. Where nothing was `trained` now, the run is as
    far as its checkpoint."""
    if is_rank_zero():
        card = module.full_card
        if not trained and start.found is not None:
            card |= {"phase": start.found.phase, "steps_done": start.found.steps_done}
        note(start.out, weights=save_weights(module.student, start.out, card))
        write_files(start.cfg, live=False)
        start.finish()


def train_in_job(cfg: TrainConfig) -> str:
    """What every task of a SLURM job does: `run`, and where a signal stopped that, put the job back into the queue."""
    import submitit

    place = submitit.JobEnvironment()
    try:
        return str(run(cfg))
    except SystemExit as end:
        if end.code == stop.TRY_AGAIN and place.global_rank == 0 and (job := os.environ.get("SLURM_JOB_ID")):
            requeue(job)
        raise


def build_module(cfg: TrainConfig) -> Distillation:
    """Student, teacher and stage as one LightningModule."""
    out = Path(cfg.out)
    torch.manual_seed(cfg.seed)
    student = build_model(cfg.model)
    if cfg.weights is not None:
        if cfg.load_parts == "all":
            weights.load_into(student, cfg.weights, cfg=cfg.model)
        else:
            weights.load_parts(student, cfg.weights, cfg.load_parts)
    if cfg.trunk_weights is not None:
        weights.load_trunk(student, cfg.trunk_weights)
    teachers = load_teachers(cfg)
    for model in (student, *(teacher.model for teacher in teachers)):
        if cfg.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if cfg.compile:
            compile_parts(model)
    if not cfg.compile and accelerator_of(cfg.trainer) == "cpu":
        keep_freed_pages()
        use_lean_layers(student)
        use_onednn(student, trained=True)
        for teacher in teachers:
            use_lean_blocks(teacher.model)
            use_onednn(teacher.model)
    validation = None
    if cfg.validation.every:
        pictures = cfg.logger.kind == "wandb" or cfg.logger.page
        validation = Validation(cfg.validation, out / "validation", size=cfg.model.image_size, pictures=pictures)
    return Distillation(
        student,
        stage=cfg.stage,
        teacher=next(iter(teachers), None),
        second_teacher=next(iter(teachers[1:]), None),
        seed=cfg.seed,
        card=card_of(cfg),
        memory_options=MemoryOptions.of(cfg),
        forensics=out / "forensics",
        gradient_shares_every=cfg.logger.gradient_shares_every,
        fused=str(cfg.trainer.get("precision", "32-true")) not in {"16", "16-mixed"},
        validation=validation,
    )


def card_of(cfg: TrainConfig) -> dict[str, Any]:
    """What files of this training say of the model: its configuration, how and on what it was trained, by which code."""
    phases = [{"frames": p.frames, "steps": p.steps, "batch": p.batch * p.accumulate} for p in cfg.stage.phases]
    return {
        "model": asdict(cfg.model),
        "training": {"stage": cfg.stage.name, "phases": phases, "lr": cfg.stage.optim.lr, "seed": cfg.seed},
        "data": {source.name: source.shards for source in cfg.data.sources},
        "started_from": cfg.weights or cfg.trunk_weights or "random weights",
        "version": VERSION,
        "commit": git_state().get("commit", "unknown"),
    }


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
            "val_check_interval": NEVER,
            "check_val_every_n_epoch": None,
            "limit_val_batches": 1.0 if cfg.validation.every else 0,
            "plugins": [AtomicCheckpoints()],
            **trainer_arguments(cfg.trainer),
        },
        callbacks=[progressive, *callbacks(cfg, index)],
    )
    if trainer.is_global_zero:
        print(progressive.describe())
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=None if resume is None else str(resume), weights_only=True)
    except SystemExit as end:
        if end.code != 1:
            raise
        raise KeyboardInterrupt from None  # a second Ctrl-C, of which Lightning makes status 1
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The GPU's memory is too small for phase {index + 1} ({phase.frames} frames, batch={phase.batch}): {error}. In "
            "the order of their cost: activation_checkpointing=true, object_chunk=1, a smaller batch with one total_batch. "
            "`edgetam plan` with the same words says what each needs."
        ) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.global_step < phase.steps and not is_over(cfg):
        limits = "".join(f", trainer.{key}={cfg.trainer[key]}" for key in LIMITS if key in cfg.trainer)
        raise ValueError(
            f"Phase {index + 1} ended after step {trainer.global_step} of {phase.steps}{limits}; where it ended was saved, "
            "and the same command continues. Set its length by stage.phases[].steps alone."
        )


def callbacks(cfg: TrainConfig, index: int) -> list[Callback]:
    """What watches and saves a phase."""
    out, phase = Path(cfg.out), cfg.stage.phases[index]
    steps = sum(phase.steps for phase in cfg.stage.phases)
    folder = out / "checkpoints"
    chosen: list[Callback] = [
        ModelCheckpoint(
            dirpath=folder,
            filename=f"phase{index + 1}-step{{step:06d}}",
            every_n_train_steps=cfg.checkpoint_every,
            save_top_k=cfg.keep_checkpoints,
            monitor="step",
            mode="max",
            auto_insert_metric_name=False,
        ),
        PhaseDone(folder, index + 1, steps=phase.steps),
        Throughput(),
        Curves(out / "curves.jsonl", every=often_enough(cfg.logger.log_every, steps, times=10)),
    ]
    if cfg.trainer.get("enable_progress_bar", True):
        chosen.append(StepsBar(phase.steps * phase.accumulate))
    if cfg.logger.panels_every:
        chosen.append(MaskPanels(out / "panels", every=often_enough(cfg.logger.panels_every, steps, times=2)))
    if cfg.validation.every:
        chosen.append(ValidateEvery(cfg.validation.every, out / "validation" / "jf.jsonl"))
        chosen.append(BestWeights(out, patience=cfg.validation.patience))
    if cfg.logger.page or cfg.logger.kind == "csv":
        chosen.append(RunPage(cfg, last=index == len(cfg.stage.phases) - 1))
    if cfg.stage.ema:
        chosen.append(EMAWeightAveraging(decay=cfg.stage.ema))
    if cfg.validation.every:
        chosen.append(ValidateOwed(cfg.validation.every, out / "validation" / "jf.jsonl"))
    return [*chosen, StopOnSignal(folder, index + 1)]  # the last, so that the others have written what they know


def export_config(cfg: TrainConfig) -> ExportConfig:
    return ExportConfig(model=cfg.model, out=str(Path(cfg.out) / PACKAGES))


def often_enough(every: int, steps: int, *, times: int) -> int:
    """Steps between two, at most `every`, so that a short run has so many all the same."""
    return max(1, min(every, steps // times))


class StepsBar(TQDMProgressBar):
    """The progress of a phase: how many batches of how many, at what rate, and how long it will take."""

    def __init__(self, batches: int) -> None:
        super().__init__(refresh_rate=1)
        self.batches = batches

    @property
    def total_train_batches(self) -> int:
        return self.batches

    def on_train_start(self, trainer: L.Trainer, pl_module: Distillation) -> None:  # type: ignore[override]
        """Lightning tells a bar its total when an epoch begins, and a resumed one does not begin."""
        super().on_train_start(trainer, pl_module)
        bar, done = self.train_progress_bar, pl_module.batches_seen
        bar.total, bar.initial, bar.n = self.batches, done, done
        bar.set_description("Epoch 0")


class PhaseDone(Callback):
    """Writes the phase's last checkpoint, which is never pruned: the next phase starts from it. A phase that something ended
    before its steps were done leaves one to go on from."""

    def __init__(self, folder: Path, phase: int, *, steps: int) -> None:
        self.folder, self.phase, self.steps = folder, phase, steps

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.global_step >= self.steps
        trainer.save_checkpoint(
            self.folder / f"phase{self.phase}-{'done' if done else f'step{trainer.global_step:06d}-stopped'}.ckpt"
        )


def describe(cfg: TrainConfig, module: Distillation) -> str:
    """What `dry_run=true` prints: parts with parameters, what is trained, steps per phase."""
    lines = [f"model {cfg.model.name}, {cfg.model.image_size} px, stage {cfg.stage.name}"]
    for name, part in module.student.named_children():
        count = sum(p.numel() for p in part.parameters())
        lines.append(f"  {name:<18} {count:>12,} parameters")
    teacher = "none" if cfg.teacher is None else f"{cfg.teacher.name} from {cfg.teacher_weights}"
    if cfg.second_teacher is not None:
        teacher += f", and {cfg.second_teacher.name} from {cfg.second_teacher_weights} ({cfg.stage.teachers})"
    lines.append(f"teacher {teacher}")
    lines += [ProgressiveFrames(cfg.stage.phases, index).describe() for index in range(len(cfg.stage.phases))]
    return "\n".join(lines)
