"""The LightningModule: holds student, teacher, optimiser and phase, and logs. What a step computes is in `step.py`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from edgetam_pl.config import StageConfig
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.losses.objective import Losses
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training import optim
from edgetam_pl.training.activation_checkpointing import MemoryOptions
from edgetam_pl.training.checkpoints import layout_of
from edgetam_pl.training.forensics import Case, Watch, gradient_shares, loss_shares
from edgetam_pl.training.step import (
    StepOptions,
    StepSeeds,
    compute_losses,
    freeze,
    freeze_eval,
    repeat_step,
)
from edgetam_pl.training.teachers import feature_match
from edgetam_pl.training.track_batch import Teacher, TrackedClip
from edgetam_pl.training.validation import Validation
from edgetam_pl.types import VideoBatch


class LastStep(NamedTuple):
    """The batch of the step just taken and what both models made of it, for pictures and curves."""

    batch: VideoBatch
    student: TrackedClip
    teacher: TrackedClip | None


class Distillation(L.LightningModule):
    """Trains the student, optionally by a teacher: Eq. 7 (stage.name=image) and Eq. 8 (video).

    Args:
        student: it is trained; the only part whose weights leave the run. Training checkpoints also hold `match`, what the
            loss has learned (stage.projection).
        stage: losses, prompts, optimiser and the phases, of which the first is entered.
        teacher: no sub-module: no key of it is ever saved, no parameter of it is ever optimised.
        seed: of everything random in a step.
        card: what checkpoints say about the model: its configuration and version (plain values only).
        memory_options: how memory is saved.
        second_teacher: likewise; stage.teachers says who teaches what.
        forensics: folder of the cases of steps whose loss or gradient was not finite; None: none are written.
        gradient_shares_every: steps between logs of how much each term pulls; 0: never. Costs one backward pass a term.
        fused: one kernel for all of AdamW. Not with a loss scaler, which must get at the gradients first.
        validation: tracks a few clips when the trainer validates.
    """

    def __init__(
        self,
        student: TrackAnything,
        *,
        stage: StageConfig,
        teacher: Teacher | None = None,
        second_teacher: Teacher | None = None,
        seed: int = 0,
        card: dict[str, Any] | None = None,
        memory_options: MemoryOptions | None = None,
        forensics: Path | None = None,
        gradient_shares_every: int = 0,
        fused: bool = True,
        validation: Validation | None = None,
    ) -> None:
        super().__init__()
        self.student, self.stage, self.seed, self.card = student, stage, seed, card or {}
        self._teachers = tuple(one for one in (teacher, second_teacher) if one is not None)
        matches = tuple(feature_match(stage, student, one) for one in self._teachers)
        self.match = torch.nn.ModuleList(matches)
        self.options = StepOptions(stage, stage.phases[0], memory_options or MemoryOptions(), matches)
        self.phase_index = self.first_step = self.batches_seen = 0
        self.gradient_shares_every, self.fused = gradient_shares_every, fused
        self.watch, self.validation = Watch(forensics), validation
        self.last_step: LastStep | None = None
        self.last_match: FeatureMatch | None = None  # of the teacher in it

    def enter(self, index: int) -> None:
        """Begin phase `index`: what is trained, counted from which step. Called before the strategy wraps the module."""
        phase, before = self.stage.phases[index], self.options
        self.options = replace(before, phase=phase)
        self.phase_index, self.first_step = index, sum(one.steps for one in self.stage.phases[:index])
        self.batches_seen, self.last_step = 0, None
        freeze(self.student, self.stage, phase)

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Those who teach in this phase."""
        return self._teachers if self.options.phase.distil else ()

    @property
    def teacher(self) -> Teacher | None:
        """The first of them, or None."""
        return next(iter(self.teachers), None)

    @property
    def steps_done(self) -> int:
        """Optimiser steps over all phases: the x-axis of every curve."""
        return self.first_step + self.global_step

    @property
    def seeds(self) -> StepSeeds:
        """Of the next batch."""
        return StepSeeds.of(self.seed, phase=self.phase_index, batch=self.batches_seen, rank=self.global_rank)

    # --- a step ---

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        self.last_step = None  # or the outputs of two steps are alive at once
        seeds = self.seeds
        found = compute_losses(self.student, self.teachers, batch, seeds, self.options)
        self.last_step = LastStep(batch, found.student, found.teacher)
        self.last_match = None if found.taught_by is None else self.options.matches[found.taught_by]
        self.watch.note(batch, found.student.outputs, found.order, found.losses, seeds._asdict())
        self.batches_seen += 1
        return self._log(found.losses, batch.num_objects)

    def _log(self, losses: Losses, num_objects: int) -> Tensor:
        """The total. Values go to the trainer; `curves.Curves` takes them to the loggers with the step of the whole run."""
        weighted = losses.weighted(self.stage.weights)
        self.log_dict(losses.named("train"), batch_size=num_objects, logger=False)
        if self.gradient_shares_every and (self.steps_done + 1) % self.gradient_shares_every == 0:
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            shares = {"loss_share": loss_shares(weighted), "gradient_share": gradient_shares(weighted, trained)}
            self.log_dict({f"{kind}/{n}": v for kind, of in shares.items() for n, v in of.items()}, logger=False)
        self.log("train/total", weighted.total.detach(), batch_size=num_objects, prog_bar=True, logger=False)
        return weighted.total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All ranks stop together when a loss or gradient of one of them is not finite (`forensics`)."""

        def again(case: Case) -> TrackedClip:
            with self.trainer.precision_plugin.forward_context():
                return repeat_step(self.student, case, self.options, self.device)

        self.watch.check_finite(
            self.student,
            again,
            gradients=self.trainer.precision != "16-mixed",
            step=self.steps_done,
            rank=self.global_rank,
            card={"model": self.card.get("model"), "stage": asdict(self.stage), "phase": self.phase_index},
        )

    # --- validation: every rank tracks its share of the clips ---

    def on_validation_epoch_start(self) -> None:
        assert self.validation is not None
        self.validation.start(self.device)

    def validation_step(self, index: int, batch_idx: int) -> None:
        """`index` is that of a clip; below 0 this rank has none left, while others do."""
        assert self.validation is not None
        self.validation.add(self.student, index)

    def on_validation_epoch_end(self) -> None:
        assert self.validation is not None
        self.validation.finish(self.trainer, step=self.steps_done)

    # --- optimiser ---

    def configure_optimizers(self) -> OptimizerLRScheduler:
        cfg, phase = self.stage.optim, self.options.phase
        groups = optim.parameter_groups(
            self.student,
            lr=cfg.lr * phase.lr_factor,
            encoder_lr=None if cfg.encoder_lr is None else cfg.encoder_lr * phase.lr_factor,
            weight_decay=cfg.weight_decay,
            layer_decay=cfg.layer_decay,
        )
        if learned := list(self.match.parameters()):
            rate = cfg.lr * phase.lr_factor
            groups.append({"params": learned, "lr": rate, "weight_decay": cfg.weight_decay, "name": "projection"})
        fused = self.fused and self.device.type in ("cuda", "cpu")
        optimizer = torch.optim.AdamW(groups, betas=(cfg.betas[0], cfg.betas[1]), fused=fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, optim.schedule_of(cfg, phase))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Global L2 norm over all parameters. Lightning refuses to clip under autocast for a fused optimiser, for fear of a
        loss scaler; bf16 has none, and with fp16 the optimiser is not fused."""
        if gradient_clip_val:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), float(gradient_clip_val))
            self.log("train/gradient_norm", norm, batch_size=1, logger=False)  # before clipping

    # --- modes and checkpoints ---

    @property
    def full_card(self) -> dict[str, Any]:
        """What is known of the model: its configuration and training, its teacher, and how far it is."""
        names = [{"name": one.name, "sha256": one.sha256} for one in self._teachers]
        taught = {"teacher": names[0] if names else None, **({"second_teacher": names[1]} if names[1:] else {})}
        return {**self.card, **taught, "phase": self.phase_index, "steps_done": self.steps_done}

    def on_train_start(self) -> None:
        for teacher in self._teachers:
            if teacher.cache is None or not teacher.cache.closed:  # otherwise it has no weights
                teacher.model.to(self.device)

    def on_train_batch_start(self, batch: VideoBatch, batch_idx: int) -> None:
        # Lightning returns the whole module to train mode after a validation
        freeze_eval(self.student, self.stage, self.options.phase)

    def on_train_end(self) -> None:
        self.last_step = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seen = {"batches_seen": self.batches_seen, "layout": layout_of(checkpoint)}
        checkpoint["edgetam_pl"] = {**self.full_card, **seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches_seen = checkpoint["edgetam_pl"]["batches_seen"]
