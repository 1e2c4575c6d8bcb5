"""Teach a TrackAnything, optionally by another: Eq. 7 (images) and Eq. 8 (video).

The modules move values between functions that know nothing of Lightning: `rollout` tracks, `Objective` measures,
`optim` schedules. The teacher is no sub-module: no key of it is ever saved, no parameter of it is ever optimised.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgetam_pl.config import OptimConfig, StageConfig
from edgetam_pl.losses.objective import Losses, Objective
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.clicks import Among
from edgetam_pl.tracking.prompters import PromptPlan, Replay, SimulatedClicks, draw_plan
from edgetam_pl.tracking.step import Prompter
from edgetam_pl.training import optim
from edgetam_pl.training.activation_checkpointing import MemoryOptions, Recomputed
from edgetam_pl.training.forensics import Case, Watch, gradient_shares, loss_shares
from edgetam_pl.training.teacher_cache import TeacherFeatureCache
from edgetam_pl.training.track_batch import (
    Teacher,
    Track,
    detached,
    encode,
    follow,
    follow_with_memory_of,
    objects_of,
    together,
)
from edgetam_pl.types import FrameOutput, ImageFeatures, VideoBatch


class StepResult(NamedTuple):
    """A batch as it was taken: what both models made of it, and what that cost."""

    student: Track
    teacher: Track | None
    losses: Losses


class Distillation(L.LightningModule):
    """Holds the student, the teacher and the objective; knows no formula."""

    def __init__(
        self,
        student: TrackAnything,
        *,
        stage: StageConfig,
        teacher: Teacher | None = None,
        seed: int = 0,
        card: dict[str, Any] | None = None,
        memory_options: MemoryOptions | None = None,
        teacher_features_cache: TeacherFeatureCache | None = None,
    ) -> None:
        """`card` is what checkpoints say about the model: its configuration and name (plain values only).
        `teacher_features_cache` remembers the teacher's F16 of images (stage 1)."""
        super().__init__()
        self.student = student
        self.stage = stage
        self.phase = stage.phases[0]
        self.phase_index = 0
        self.first_step = 0
        self.batches_seen = 0
        self.seed = seed
        self.card = card or {}
        self.memory_options = memory_options or MemoryOptions()
        self.teacher_features_cache = teacher_features_cache
        self.objective = Objective(
            stage.weights, stage.distance, stage.mask_size, stage.candidates, memory_frames=stage.memory_frames
        )
        self.last_track: tuple[VideoBatch, Track, Track | None] | None = None
        self._teacher = teacher
        names = [name for name, _ in student.named_parameters()]
        if unknown := [start for start in stage.frozen if not any(name.startswith(start) for name in names)]:
            raise ValueError(
                f"stage.frozen names {', '.join(unknown)}, but no parameter of the model begins so; its first one is "
                f"{names[0]}. Correct the name or leave it out."
            )
        self.watch = Watch()
        self.fused = True
        """One kernel for all of AdamW. Not with a loss scaler, which must get at the gradients first."""
        self.gradient_shares_every = 0
        """Steps between logs of how much each term pulls; 0: never. Costs one backward pass a term."""

    def enter(self, index: int) -> None:
        """Begin phase `index`: what is trained, counted from which step. Called before the strategy wraps the module."""
        self.phase_index, self.phase = index, self.stage.phases[index]
        self.first_step = sum(phase.steps for phase in self.stage.phases[:index])
        self.batches_seen = 0
        self.last_track = None
        for part in frozen_parts(self.student):
            part.requires_grad_(not self.phase.freeze_encoder)
        for name, parameter in self.student.named_parameters():
            if name.startswith(tuple(self.stage.frozen)):
                parameter.requires_grad_(False)

    @property
    def teacher(self) -> Teacher | None:
        """The teacher when this phase distils, else None."""
        return self._teacher if self.phase.distil else None

    @property
    def steps_done(self) -> int:
        """Optimiser steps over all phases: the x-axis of every curve."""
        return self.first_step + self.global_step

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        self.last_track = None  # or the outputs of two steps are alive at once
        torch.manual_seed(self._key("dropout", per_rank=True))
        taken = self.compute_losses(batch)
        self.last_track = (batch, taken.student, taken.teacher)
        order = self.prompter(batch).order(batch.num_frames)
        self.watch.note(batch, taken.student.outputs, order, taken.losses, self._seeds())
        total = taken.losses.weighted(self.stage.weights).total
        self._log(taken.losses, total, batch)
        self.batches_seen += 1
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All ranks stop together when a loss or gradient of one of them is not finite (`forensics`)."""
        self.watch.check_finite(
            self.student,
            self._again,
            gradients=self.trainer.precision != "16-mixed",
            step=self.steps_done,
            rank=self.global_rank,
            card={"model": self.card.get("model"), "stage": asdict(self.stage), "phase": self.phase_index},
        )

    def _again(self, case: Case) -> Track:
        with self.trainer.precision_plugin.forward_context():
            return repeat_step(self, case)

    def compute_losses(self, batch: VideoBatch) -> StepResult:
        """Student, teacher and losses of a batch; more than `memory_options.object_chunk` objects are taken in parts."""
        features = self.encode(batch)
        heard = None if self.teacher is None else self.teacher_features(batch)
        count = mean_over_ranks(batch.num_objects, device=batch.masks.device)
        parts = parts_of(batch.num_objects, self.memory_options.object_chunk)
        if len(parts) > 1:
            return self._take_in_parts(batch, parts, features, heard, count)
        student = Track(features, follow(self.tracker, features, batch, self.prompter(batch)))
        teacher = None if heard is None else Track(heard, self.teacher_outputs(batch, heard, student.outputs))
        return StepResult(student, teacher, self.measure(batch, student, teacher, count))

    def _take_in_parts(
        self,
        batch: VideoBatch,
        parts: list[Among],
        features: ImageFeatures,
        heard: ImageFeatures | None,
        count: Tensor | float,
    ) -> StepResult:
        """Each part is computed again in the backward pass, so that only one part's values are in memory at a time."""
        made: dict[int, tuple[tuple[FrameOutput, ...], tuple[FrameOutput, ...]]] = {}

        def part(among: Among) -> Losses:
            some = objects_of(batch, among.rows)
            outputs = follow(self.tracker, features, some, self.prompter(batch, among))
            if (key := among.rows.start) not in made:  # the second time the teacher's answers are known
                made[key] = detached(outputs), () if heard is None else self.teacher_outputs(some, heard, outputs)
            student, teacher = Track(features, outputs), None if heard is None else Track(heard, made[key][1])
            losses = self.measure(some, student, teacher, count)
            share = some.num_objects / batch.num_objects  # L_mem is a mean over objects, L_img has none: it counts once
            return losses._replace(mem=losses.mem * share, img=losses.img * share)

        every = [checkpoint(part, among, use_reentrant=False) for among in parts]
        ours, theirs = [outputs for outputs, _ in made.values()], [replies for _, replies in made.values()]
        losses = Losses(*(torch.stack(terms).sum() for terms in zip(*every, strict=True)))
        return StepResult(Track(features, together(ours)), None if heard is None else Track(heard, together(theirs)), losses)

    @property
    def tracker(self) -> Recomputed:
        return Recomputed(self.student, tuple(self.memory_options.recompute))

    def encode(self, batch: VideoBatch) -> ImageFeatures:
        """All frames at once, or, frozen, some at a time: there is no backward pass then."""
        frozen = self.phase.freeze_encoder
        encoder = self.student if frozen else self.tracker
        chunk = self.memory_options.encoder_chunk if frozen else 0
        return encode(encoder, batch.frames, chunk=chunk, channels_last=self.memory_options.channels_last)

    def track(self, batch: VideoBatch, prompter: Prompter) -> Track:
        """The student on a batch, all objects at once."""
        features = self.encode(batch)
        return Track(features, follow(self.tracker, features, batch, prompter))

    def teacher_features(self, batch: VideoBatch) -> ImageFeatures:
        """The teacher's features of all frames."""
        return self._taught(batch.frames)

    @torch.inference_mode()
    def _taught(self, frames: Tensor) -> ImageFeatures:
        assert self._teacher is not None
        memory_options = self.memory_options
        return encode(
            self._teacher.model, frames, chunk=memory_options.encoder_chunk, channels_last=memory_options.channels_last
        )

    def teacher_outputs(
        self, batch: VideoBatch, heard: ImageFeatures, student: tuple[FrameOutput, ...]
    ) -> tuple[FrameOutput, ...]:
        """The teacher's answers to what the student was told; empty where nothing is learned from them."""
        raise NotImplementedError

    def measure(self, batch: VideoBatch, student: Track, teacher: Track | None, num_objects: Tensor | float) -> Losses:
        return self.objective(
            batch.masks,
            student.outputs,
            student_f16=student.f16,
            teacher_f16=None if teacher is None else teacher.f16,
            teacher_outputs=None if teacher is None else (teacher.outputs or None),
            num_objects=num_objects,
        )

    def prompter(self, batch: VideoBatch, among: Among | None = None) -> SimulatedClicks:
        """The simulated person, for some of the objects or all. What kind of prompts: the same on every rank. Where they
        fall: not."""
        masks = batch.masks if among is None else batch.masks[:, among.rows]
        clicks = self._generator("clicks", per_rank=True)
        return SimulatedClicks(masks, self.plan(batch.num_frames), clicks, among=among)

    def plan(self, num_frames: int) -> PromptPlan:
        return draw_plan(self.stage.prompts, num_frames, self._generator("plan", per_rank=False))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        cfg: OptimConfig = self.stage.optim
        factor = self.phase.lr_factor
        groups = optim.parameter_groups(
            self.student,
            lr=cfg.lr * factor,
            encoder_lr=None if cfg.encoder_lr is None else cfg.encoder_lr * factor,
            weight_decay=cfg.weight_decay,
            layer_decay=cfg.layer_decay,
        )
        fused = self.fused and self.device.type in ("cuda", "cpu")
        optimizer = torch.optim.AdamW(groups, betas=(cfg.betas[0], cfg.betas[1]), fused=fused)
        factor_at = optim.schedule(
            cfg.schedule,
            total_steps=self.phase.steps,
            warmup=cfg.warmup if self.phase.warmup is None else self.phase.warmup,
            cooldown=cfg.cooldown,
            timescale=cfg.timescale,
            end_factor=cfg.end_factor,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor_at)
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
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), float(gradient_clip_val))

    def on_train_start(self) -> None:
        if self._teacher is not None:
            self._teacher.model.to(self.device)
        self.freeze_eval()

    def on_train_batch_start(self, batch: VideoBatch, batch_idx: int) -> None:
        self.freeze_eval()  # Lightning returns the whole module to train mode after every validation

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        teacher = None if self._teacher is None else {"name": self._teacher.name, "sha256": self._teacher.sha256}
        checkpoint["edgetam_pl"] = {
            **self.card,
            "teacher": teacher,
            "phase": self.phase_index,
            "steps_done": self.steps_done,
            "batches_seen": self.batches_seen,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches_seen = checkpoint["edgetam_pl"]["batches_seen"]
        recorded = checkpoint["edgetam_pl"]["teacher"]
        if recorded is not None and self._teacher is not None and recorded["sha256"] != self._teacher.sha256:
            raise ValueError(
                f"The run was taught by {recorded['name']} ({recorded['sha256'][:12]}); the teacher given now is "
                f"{self._teacher.name} ({self._teacher.sha256[:12]}). Give the same teacher, or start a new run (out=...)."
            )

    def freeze_eval(self) -> None:
        """A frozen encoder is also in eval mode: its BatchNorm statistics do not move. `freeze_norm` holds these alone."""
        if self.phase.freeze_encoder:
            for part in frozen_parts(self.student):
                part.eval()
        if self.stage.freeze_norm:
            for module in self.student.image_encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _key(self, purpose: str, *, per_rank: bool) -> int:
        """A seed that depends on the batch's place in the run alone, so that a resumed run draws what it would have."""
        rank = self.global_rank if per_rank else -1
        words = (self.seed, self.phase_index, self.batches_seen, rank, *purpose.encode())
        return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little") >> 1

    def _generator(self, purpose: str, *, per_rank: bool) -> torch.Generator:
        return torch.Generator().manual_seed(self._key(purpose, per_rank=per_rank))

    def _seeds(self) -> dict[str, int]:
        return {
            "dropout": self._key("dropout", per_rank=True),
            "clicks": self._key("clicks", per_rank=True),
            "plan": self._key("plan", per_rank=False),
        }

    def _log(self, losses: Losses, total: Tensor, batch: VideoBatch) -> None:
        """Values go to the trainer; `curves.Curves` takes them to the loggers with the step of the whole run."""
        self.log_dict(losses.named("train"), batch_size=batch.num_objects, logger=False)
        if self.gradient_shares_every and (self.steps_done + 1) % self.gradient_shares_every == 0:
            weighted, trained = losses.weighted(self.stage.weights), [p for p in self.parameters() if p.requires_grad]
            self.log_dict({f"loss_share/{name}": share for name, share in loss_shares(weighted).items()}, logger=False)
            self.log_dict({f"gradient_share/{n}": s for n, s in gradient_shares(weighted, trained).items()}, logger=False)
        self.log("train/total", total.detach(), batch_size=batch.num_objects, prog_bar=True, logger=False)


class ImageDistillation(Distillation):
    """Stage 1, Eq. 7: one frame, memory parts idle, L_task + gamma * L_img. The teacher only encodes."""

    def teacher_features(self, batch: VideoBatch) -> ImageFeatures:
        if self.teacher_features_cache is None:
            return super().teacher_features(batch)
        return ImageFeatures(None, None, self.teacher_features_cache.of(batch.frames, lambda some: self._taught(some).f16))

    def teacher_outputs(
        self, batch: VideoBatch, heard: ImageFeatures, student: tuple[FrameOutput, ...]
    ) -> tuple[FrameOutput, ...]:
        return ()


class VideoDistillation(Distillation):
    """Stage 2 and longer clips, Eq. 8: T frames through the bank, L_task + alpha * L_img + beta * L_mem."""

    @torch.inference_mode()
    def teacher_outputs(
        self, batch: VideoBatch, heard: ImageFeatures, student: tuple[FrameOutput, ...]
    ) -> tuple[FrameOutput, ...]:
        assert self._teacher is not None
        if batch.num_frames == 1 and self.stage.memory_frames == "recalled":
            return ()  # an image recalls nothing
        replay = Replay(student, own_logits=self.stage.teacher_logits == "own")
        if self.stage.teacher_memory == "student":
            return follow_with_memory_of(self._teacher.model, heard, batch, student, replay)
        return follow(self._teacher.model, heard, batch, replay)


STAGES: dict[str, type[Distillation]] = {"image": ImageDistillation, "video": VideoDistillation}


def repeat_step(module: Distillation, case: Case) -> Track:
    """The student's part of a saved step: the same batch, words and dropout."""
    torch.manual_seed(case.seeds["dropout"])
    return module.track(case.batch.to(module.device), case.prompter(module.device))


def frozen_parts(model: TrackAnything) -> list[nn.Module]:
    """What `freeze_encoder` freezes: trunk and neck. The projections of F4 and F8 run once an image, but are the decoder's
    in the release, and go on learning."""
    encoder = model.image_encoder
    return [encoder.trunk, *(part for name, part in encoder.neck.named_children() if not name.startswith("project_f"))]


def parts_of(num_objects: int, chunk: int) -> list[Among]:
    """All objects, `chunk` at a time (0: all at once)."""
    size = chunk or num_objects
    return [Among(slice(at, min(at + size, num_objects)), num_objects) for at in range(0, num_objects, max(size, 1))]


def mean_over_ranks(count: int, *, device: torch.device) -> Tensor | float:
    """Objects per rank, averaged over ranks: the divisor of every task loss (SAM 2 release). The host does not wait."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(count)
    total = torch.full((), float(count), device=device)
    dist.all_reduce(total)
    return total / dist.get_world_size()
