"""One training step as a function: a student, a teacher, a batch and seeds in, tracks and losses out (Eq. 7 and 8).

Nothing of Lightning, and no state: what is random follows from `StepSeeds`, so the same call gives the same result, also
when it is computed again in the backward pass, on resume, or from a file (`repeat_step`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgetam_pl.config import PhaseConfig, StageConfig
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.losses.objective import JudgedClip, Losses, Objective
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.clicks import Among
from edgetam_pl.tracking.prompters import PromptPlan, Replay, SimulatedClicks, draw_plan
from edgetam_pl.tracking.step import Prompter
from edgetam_pl.training.activation_checkpointing import CheckpointedTracker, MemoryOptions
from edgetam_pl.training.forensics import Case
from edgetam_pl.training.track_batch import (
    Teacher,
    TrackedClip,
    detached,
    encode_frames,
    objects_of,
    parts_of,
    together,
    track_objects,
    track_with_memory_of,
)
from edgetam_pl.types import FrameOutput, ImageFeatures, VideoBatch

STAGES = ("image", "video")
"""image: stage 1, Eq. 7, one frame, memory parts idle, the teacher only encodes. video: Eq. 8, T frames through the bank."""


class StepSeeds(NamedTuple):
    """What is random in a step, by purpose."""

    dropout: int
    clicks: int
    """Where prompts fall: other on every rank."""
    plan: int
    """What kind of prompts: the same on every rank, so that all take the same path and none waits for another."""

    @classmethod
    def of(cls, seed: int, *, phase: int, batch: int, rank: int) -> StepSeeds:
        """Seeds of batch `batch` of a phase. They depend on its place in the run alone, so a resumed run draws the same."""

        def key(purpose: str, rank: int) -> int:
            words = (seed, phase, batch, rank, *purpose.encode())
            return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little") >> 1

        return cls(key("dropout", rank), key("clicks", rank), key("plan", -1))


@dataclass(frozen=True)
class StepOptions:
    """How a step is taken: the stage and phase of the schedule, and how memory is saved."""

    stage: StageConfig
    phase: PhaseConfig
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    matches: tuple[FeatureMatch, ...] = ()
    """One a teacher: brings student's and teacher's maps together; empty: as the stage says, with nothing learned."""

    def tracker(self, student: TrackAnything) -> CheckpointedTracker:
        """The student's verbs. Where presence has no weight nobody trains it, so masks are not gated by it: they would be
        ABSENT_LOGIT, without a gradient, wherever an untrained verdict says so."""
        return CheckpointedTracker(student, tuple(self.memory.recompute), gate=self.stage.weights.presence != 0)

    def plan(self, num_frames: int, seeds: StepSeeds) -> PromptPlan:
        return draw_plan(self.stage.prompts, num_frames, torch.Generator().manual_seed(seeds.plan))

    def prompter(self, batch: VideoBatch, seeds: StepSeeds, among: Among | None = None) -> SimulatedClicks:
        """The simulated person, for some of the objects or all."""
        masks = batch.masks if among is None else batch.masks[:, among.rows]
        clicks = torch.Generator().manual_seed(seeds.clicks)
        return SimulatedClicks(masks, self.plan(batch.num_frames, seeds), clicks, among=among)


class StepResult(NamedTuple):
    """What both models made of a batch, and what that cost."""

    student: TrackedClip
    teacher: TrackedClip | None
    losses: Losses
    order: tuple[int, ...]
    """In which the frames were visited."""
    taught_by: int | None = None
    """The number of the teacher whose track this is; of several the first."""


def compute_losses(
    student: TrackAnything, teachers: Sequence[Teacher], batch: VideoBatch, seeds: StepSeeds, options: StepOptions
) -> StepResult:
    """Track a batch with the student and its teachers and compare. The global generator is seeded, for dropout.

    More than `options.memory.object_chunk` objects are taken in parts. Each part is computed again in the backward pass, so
    that only one part's values are in memory at a time.
    """
    torch.manual_seed(seeds.dropout)
    features = student_features(student, batch, options)
    numbers = asked(teachers, batch, options.stage)
    taught = {k: teacher_features(teachers[k], batch, options) for k in numbers}
    num_objects = mean_over_ranks(batch.num_objects, device=batch.masks.device)
    tracker = options.tracker(student)
    replies: dict[int, dict[int, tuple[FrameOutput, ...]]] = {}  # the teachers', by the part's first object

    def track_part(among: Among) -> tuple[tuple[FrameOutput, ...], Losses]:
        some = objects_of(batch, among.rows)
        outputs = track_objects(tracker, features, some, options.prompter(batch, seeds, among))
        key = among.rows.start
        if key not in replies:  # the second time they are known
            replies[key] = {k: teacher_outputs(teachers[k], taught[k], some, outputs, options) for k in numbers}
        theirs = {k: TrackedClip(taught[k], replies[key][k]) for k in numbers}
        share = some.num_objects / max(batch.num_objects, 1)
        return outputs, measure(some, TrackedClip(features, outputs), theirs, options, num_objects, share=share)

    parts = parts_of(batch.num_objects, options.memory.object_chunk)
    if len(parts) == 1:
        outputs, losses = track_part(parts[0])
    else:
        tracked, lost = [], []
        for part in parts:
            some, cost = checkpoint(track_part, part, use_reentrant=False)
            tracked.append(detached(some))
            lost.append(cost)
        outputs, losses = together(tracked), Losses.added(lost)
    first = numbers[0] if numbers else None
    theirs = None if first is None else TrackedClip(taught[first], together([some[first] for some in replies.values()]))
    order = options.prompter(batch, seeds).order(batch.num_frames)
    return StepResult(TrackedClip(features, outputs), theirs, losses, tuple(order), first)


def student_features(student: TrackAnything, batch: VideoBatch, options: StepOptions) -> ImageFeatures:
    """All frames at once, or, frozen, some at a time: there is no backward pass then."""
    frozen, memory = options.phase.freeze_encoder, options.memory
    verb, chunk = (student.encode, memory.encoder_chunk) if frozen else (options.tracker(student).encode, 0)
    return encode_frames(student, batch.frames, verb=verb, chunk=chunk, channels_last=memory.channels_last)


@torch.inference_mode()
def teacher_features(teacher: Teacher, batch: VideoBatch, options: StepOptions, *, cached: bool = True) -> ImageFeatures:
    """The teacher's features of all frames; F16 alone where the teacher has a cache and `cached` says to use it."""
    frames = batch.frames_at(teacher.model.image_size)

    def encode(some: Tensor) -> ImageFeatures:
        memory = options.memory
        return encode_frames(teacher.model, some, chunk=memory.encoder_chunk, channels_last=memory.channels_last)

    def f16_of(missing: list[int]) -> Tensor:
        if options.stage.name == "image":
            return encode(frames.flatten(0, 1)[missing][:, None]).f16
        return encode(frames).f16[missing]  # of a clip usually all or none; together, as without a cache

    if teacher.cache is None or not cached:
        return encode(frames)
    return ImageFeatures(None, None, teacher.cache.of(frames, f16_of))


@torch.inference_mode()
def teacher_outputs(
    teacher: Teacher, features: ImageFeatures, batch: VideoBatch, student: tuple[FrameOutput, ...], options: StepOptions
) -> tuple[FrameOutput, ...]:
    """The teacher's answers to the student's prompts; empty where nothing is learned from them: in stage 1, and from an
    image, which recalls nothing. From a cache: F_M alone."""
    stage = options.stage
    if stage.name == "image" or (batch.num_frames == 1 and stage.memory_frames == "recalled"):
        return ()
    sides = (batch.masks.shape[-1], teacher.model.image_size)
    replay = Replay(student, own_logits=stage.teacher_logits == "own", sides=sides)

    def track() -> tuple[FrameOutput, ...]:
        # a cache rounds F16 and has no F4 and F8: the teacher tracks with what it sees itself
        seen = features if teacher.cache is None else teacher_features(teacher, batch, options, cached=False)
        if stage.teacher_memory == "student":
            return track_with_memory_of(teacher.model, seen, batch, student, replay)
        return track_objects(teacher.model, seen, batch, replay)

    if teacher.cache is None:
        return track()
    every = stage.memory_frames == "all"
    return teacher.cache.outputs(batch.frames_at(teacher.model.image_size), replay.prompts, batch.video_of, every, track)


def asked(teachers: Sequence[Teacher], batch: VideoBatch, stage: StageConfig) -> list[int]:
    """Which of the teachers teach a batch, by number: all of them, or with teachers=by_kind the first one images and the
    second one clips."""
    if len(teachers) < 2 or stage.teachers == "average":
        return list(range(len(teachers)))
    return [0 if batch.num_frames == 1 else 1]


def measure(
    batch: VideoBatch,
    student: TrackedClip,
    teachers: Mapping[int, TrackedClip],
    options: StepOptions,
    num_objects: Tensor | float,
    *,
    share: float = 1.0,
) -> Losses:
    """The unweighted losses of tracks; see `Objective`. Of several teachers, by number, the mean."""

    def held_to(number: int) -> tuple[Objective, JudgedClip]:
        one = teachers[number]
        match = options.matches[number] if number < len(options.matches) else None
        return Objective.of(options.stage, match), JudgedClip(student.outputs, one.outputs or None, student.f16, one.f16)

    numbers = list(teachers)
    objective, clip = held_to(numbers[0]) if numbers else (Objective.of(options.stage), None)
    losses = objective(
        batch.masks,
        student.outputs,
        student_f16=student.f16,
        teacher_f16=None if clip is None else clip.teacher_f16,
        teacher_outputs=None if clip is None else clip.teacher_outputs,
        num_objects=num_objects,
        share=share,
    )
    if len(numbers) > 1:
        others = [objective.of_clip(clip, share) for objective, clip in map(held_to, numbers[1:])]
        for name in others[0]:
            losses[name] = torch.stack([losses[name], *(other[name] for other in others)]).mean()
    return losses


def track_student(student: TrackAnything, batch: VideoBatch, prompter: Prompter, options: StepOptions) -> TrackedClip:
    """The student on a batch, all objects at once."""
    features = student_features(student, batch, options)
    return TrackedClip(features, track_objects(options.tracker(student), features, batch, prompter))


def repeat_step(student: TrackAnything, case: Case, options: StepOptions, device: torch.device | str = "cpu") -> TrackedClip:
    """The student's part of a saved step: the same batch, prompts and dropout."""
    torch.manual_seed(case.seeds["dropout"])
    return track_student(student, case.batch.to(device), case.prompter(device), options)


def frozen_parts(model: TrackAnything) -> list[nn.Module]:
    """What `freeze_encoder` freezes: trunk and neck. The projections of F4 and F8 run once an image, but are the decoder's
    in the release, and go on learning."""
    encoder = model.image_encoder
    return [encoder.trunk, *(part for name, part in encoder.neck.named_children() if not name.startswith("project_f"))]


def freeze(model: TrackAnything, stage: StageConfig, phase: PhaseConfig) -> None:
    """Train what the phase trains: the encoder may be frozen, and so are parameters whose names begin as `stage.frozen`.

    Raises:
        ValueError: no parameter begins as a name of `stage.frozen`.
    """
    names = [name for name, _ in model.named_parameters()]
    if unknown := [start for start in stage.frozen if not any(name.startswith(start) for name in names)]:
        raise ValueError(
            f"stage.frozen names {', '.join(unknown)}, but no parameter of the model begins so; its first one is "
            f"{names[0]}. Correct the name or leave it out."
        )
    for part in frozen_parts(model):
        part.requires_grad_(not phase.freeze_encoder)
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(stage.frozen)):
            parameter.requires_grad_(False)
    freeze_eval(model, stage, phase)


def freeze_eval(model: TrackAnything, stage: StageConfig, phase: PhaseConfig) -> None:
    """A frozen encoder is also in eval mode: its BatchNorm statistics do not move. `stage.freeze_norm` holds these alone."""
    if phase.freeze_encoder:
        for part in frozen_parts(model):
            part.eval()
    if stage.freeze_norm:
        for module in model.image_encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def mean_over_ranks(count: int, *, device: torch.device) -> Tensor | float:
    """Objects per rank, averaged over ranks: the divisor of every task loss (SAM 2 release). The host does not wait."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(count)
    total = torch.full((), float(count), device=device)
    dist.all_reduce(total)
    return total / dist.get_world_size()
