"""Teach a TrackAnything, optionally by another: Eq. 7 (images) and Eq. 8 (video).

The modules move values between functions that know nothing of Lightning: `rollout` tracks, `Objective` measures,
`optim` schedules. The teacher is no sub-module: no key of it is ever saved, no parameter of it is ever optimised.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from edgetam_pl.config import OptimConfig, StageConfig
from edgetam_pl.losses.objective import Losses, Objective
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import PromptPlan, Replay, SimulatedClicks, draw_plan
from edgetam_pl.tracking.step import Features, Prompter, Tracker, observe, rollout
from edgetam_pl.training import optim
from edgetam_pl.training.forensics import Case, Watch, gradient_shares, loss_shares
from edgetam_pl.types import Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall, VideoBatch


class Track(NamedTuple):
    """What one model made of one batch."""

    features: ImageFeatures  # B*T rows, clip-major
    outputs: tuple[FrameOutput, ...]  # T of them; empty when the model only encoded

    @property
    def f16(self) -> Tensor:
        return self.features.f16  # (B*T, C, S/16, S/16)


@dataclass(frozen=True)
class Teacher:
    """A model that is listened to and never trained. Recorded in checkpoints by name and hash, never by weights."""

    model: TrackAnything
    name: str
    sha256: str

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)


def per_object(features: ImageFeatures, batch: VideoBatch) -> Features:
    """Features of frame t for the objects of the batch, from features of all frames (B*T rows, clip-major).

    With one clip the single row is shared by all objects instead of being copied.
    """
    frames = batch.num_frames
    if batch.frames.shape[0] == 1:
        return lambda t: features.of(slice(t, t + 1))
    return lambda t: features.of(batch.video_of * frames + t)  # flat index clip*T + t (SAM 2 release)


def follow(model: TrackAnything, batch: VideoBatch, prompter: Prompter, *, tracker: Tracker | None = None) -> Track:
    """Encode all frames at once, then track the objects through the clip (Eq. 1 to 6)."""
    features = model.encode(model.normalise(batch.frames.flatten(0, 1)))  # (B, T, 3, S, S) -> (B*T, ...)
    outputs = rollout(
        tracker or model, per_object(features, batch), prompter, num_frames=batch.num_frames, bank=bank_for(batch)
    )
    return Track(features, outputs)


def bank_for(batch: VideoBatch) -> MemoryBank:
    """The bank of a training clip: its length scales pointer distances, prompted frames of the future are read."""
    return MemoryBank(policy=RecallPolicy(clip_length=batch.num_frames))


def follow_with_memory_of(model: TrackAnything, batch: VideoBatch, student: Track, order: tuple[int, ...]) -> Track:
    """The teacher's answers when it remembers the student's masks instead of its own (stage.teacher_memory=student)."""
    features = model.encode(model.normalise(batch.frames.flatten(0, 1)))
    at, bank, replay = per_object(features, batch), bank_for(batch), Replay(student.outputs)
    outputs: dict[int, FrameOutput] = {}
    for t in order:
        frame = at(t)
        outputs[t] = observe(model, bank, frame, t, replay.at(t))
        heard = student.outputs[t].final
        seen = heard._replace(pointer=outputs[t].final.pointer, logits=heard.logits.detach(), iou=heard.iou.detach())
        bank = bank.write(t, model.memorize(frame.f16, seen), prompted=outputs[t].prompted)
    return Track(features, tuple(outputs[t] for t in range(batch.num_frames)))


@dataclass(frozen=True)
class Recomputed:
    """The same tracker, whose intermediate values are computed again in the backward pass instead of being kept."""

    model: TrackAnything

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        return recompute(self.model.attend, f16, recall, use_reentrant=False)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        return recompute(self.model.decode, f_m, features, prompts, use_reentrant=False)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        return recompute(self.model.memorize, f16, decoded, use_reentrant=False)


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
        checkpointing: bool = False,
    ) -> None:
        """`card` is what checkpoints say about the model: its configuration and name (plain values only)."""
        super().__init__()
        self.student = student
        self.stage = stage
        self.phase = stage.phases[0]
        self.phase_index = 0
        self.first_step = 0
        self.batches_seen = 0
        self.seed = seed
        self.card = card or {}
        self.checkpointing = checkpointing
        self.objective = Objective(stage.weights, stage.distance, stage.mask_size, stage.candidates)
        self.last_track: tuple[VideoBatch, Track, Track | None] | None = None
        self._teacher = teacher
        self.watch = Watch()
        self.gradient_shares_every = 0
        """Steps between logs of how much each term pulls; 0: never. Costs one backward pass a term."""

    def enter(self, index: int) -> None:
        """Begin phase `index`: what is trained, counted from which step. Called before the strategy wraps the module."""
        self.phase_index, self.phase = index, self.stage.phases[index]
        self.first_step = sum(phase.steps for phase in self.stage.phases[:index])
        self.batches_seen = 0
        for part in (self.student.image_encoder.trunk, self.student.image_encoder.neck):
            part.requires_grad_(not self.phase.freeze_encoder)

    @property
    def teacher(self) -> Teacher | None:
        """The teacher when this phase distils, else None."""
        return self._teacher if self.phase.distil else None

    @property
    def steps_done(self) -> int:
        """Optimiser steps over all phases: the x-axis of every curve."""
        return self.first_step + self.global_step

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        torch.manual_seed(self._key("dropout", per_rank=True))
        prompter = self.prompter(batch)
        student = self.track(batch, prompter)
        teacher = self.teach(batch, student) if self.teacher is not None else None
        losses = self.measure(batch, student, teacher)
        self.last_track = (batch, student, teacher)
        self.watch.note(batch, student.outputs, prompter.order(batch.num_frames), losses, self._seeds())
        total = losses.weighted(self.stage.weights).total
        self._log(losses, total, batch)
        self.batches_seen += 1
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All ranks stop together when a loss or gradient of one of them is not finite (`forensics`)."""
        self.watch.judge(
            self.student,
            self._again,
            gradients=self.trainer.precision != "16-mixed",
            step=self.steps_done,
            rank=self.global_rank,
            card={"model": self.card.get("model"), "stage": asdict(self.stage), "phase": self.phase_index},
        )

    def _again(self, case: Case) -> Track:
        with self.trainer.precision_plugin.forward_context():
            return take_again(self, case)

    def track(self, batch: VideoBatch, prompter: Prompter) -> Track:
        tracker = Recomputed(self.student) if self.checkpointing else None
        return follow(self.student, batch, prompter, tracker=tracker)

    def teach(self, batch: VideoBatch, student: Track) -> Track:
        raise NotImplementedError

    def measure(self, batch: VideoBatch, student: Track, teacher: Track | None) -> Losses:
        return self.objective(
            batch.masks,
            student.outputs,
            student_f16=student.f16,
            teacher_f16=None if teacher is None else teacher.f16,
            teacher_outputs=None if teacher is None else (teacher.outputs or None),
            num_objects=mean_over_ranks(batch.num_objects, device=batch.masks.device),
        )

    def prompter(self, batch: VideoBatch) -> SimulatedClicks:
        """The simulated person. What kind of prompts: the same on every rank. Where they fall: not."""
        return SimulatedClicks(batch.masks, self.plan(batch.num_frames), self._generator("clicks", per_rank=True))

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
        optimizer = torch.optim.AdamW(groups, betas=(cfg.betas[0], cfg.betas[1]), fused=self.device.type in ("cuda", "cpu"))
        factor_at = optim.schedule(
            cfg.schedule,
            total_steps=self.phase.steps,
            warmup=cfg.warmup,
            cooldown=cfg.cooldown,
            timescale=cfg.timescale,
            end_factor=cfg.end_factor,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        if self._teacher is not None:
            self._teacher.model.to(self.device)
        self.hold_still()

    def on_train_batch_start(self, batch: VideoBatch, batch_idx: int) -> None:
        self.hold_still()  # Lightning returns the whole module to train mode after every validation

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

    def hold_still(self) -> None:
        """A frozen encoder is also in eval mode: its BatchNorm statistics do not move."""
        if self.phase.freeze_encoder:
            self.student.image_encoder.trunk.eval()
            self.student.image_encoder.neck.eval()

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

    def teach(self, batch: VideoBatch, student: Track) -> Track:
        assert self._teacher is not None
        model = self._teacher.model
        with torch.no_grad():
            return Track(model.encode(model.normalise(batch.frames.flatten(0, 1))), ())


class VideoDistillation(Distillation):
    """Stage 2 and longer clips, Eq. 8: T frames through the bank, L_task + alpha * L_img + beta * L_mem."""

    def teach(self, batch: VideoBatch, student: Track) -> Track:
        assert self._teacher is not None
        model = self._teacher.model
        replay = Replay(student.outputs)
        with torch.no_grad():
            if self.stage.teacher_memory == "student":
                return follow_with_memory_of(model, batch, student, tuple(replay.order(batch.num_frames)))
            return follow(model, batch, replay)


STAGES: dict[str, type[Distillation]] = {"image": ImageDistillation, "video": VideoDistillation}


def take_again(module: Distillation, case: Case) -> Track:
    """The student's part of a saved step: the same batch, words and dropout."""
    torch.manual_seed(case.seeds["dropout"])
    return module.track(case.batch.to(module.device), case.prompter(module.device))


def mean_over_ranks(count: int, *, device: torch.device) -> float:
    """Objects per rank, averaged over ranks and at least 1: the divisor of every task loss (SAM 2 release)."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(max(count, 1))
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return max(total.item() / dist.get_world_size(), 1.0)
