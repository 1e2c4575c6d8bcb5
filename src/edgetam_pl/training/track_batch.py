"""A model on a batch: encode all frames, then track the objects through the clip (Eq. 1 to 6). Nothing of Lightning here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.clicks import Among
from edgetam_pl.tracking.prompters import Replay
from edgetam_pl.tracking.step import Features, Prompter, Tracker, observe, rollout
from edgetam_pl.training.teacher_cache import TeacherFeatureCache
from edgetam_pl.types import Decoded, FrameOutput, ImageFeatures, Prompts, VideoBatch


class TrackedClip(NamedTuple):
    """What one model made of one batch."""

    features: ImageFeatures  # B*T rows, clip-major
    outputs: tuple[FrameOutput, ...]  # T of them; empty when the model only encoded

    @property
    def f16(self) -> Tensor:
        return self.features.f16  # (B*T, C, S/16, S/16)


@dataclass(frozen=True)
class Teacher:
    """A model that is only evaluated and never trained. Recorded in checkpoints by name and hash, never by weights: it is no
    sub-module of anything."""

    model: TrackAnything
    name: str
    sha256: str
    cache: TeacherFeatureCache | None = None
    """Remembers its answers."""

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, object]) -> Teacher:
        return self  # it never changes, so whoever copies the module (a moving average) need not copy it


def encode_frames(
    model: TrackAnything,
    frames: Tensor,
    *,
    verb: Callable[[Tensor], ImageFeatures] | None = None,
    chunk: int = 0,
    channels_last: bool = False,
) -> ImageFeatures:
    """Features of uint8 frames (B, T, 3, S, S), B*T rows, clip-major; `chunk` images at a time (0: all).

    Chunks are for models in evaluation mode: BatchNorm in training would see other batches. `verb` stands in for the
    model's `encode`, for instance one that is computed again in the backward pass.
    """
    images = frames.flatten(0, 1)  # (B, T, 3, S, S) -> (B*T, 3, S, S)
    layout = torch.channels_last if channels_last else torch.preserve_format
    parts = images.split(chunk) if 0 < chunk < len(images) else (images,)
    made = []
    for part in parts:
        floats = model.normalise(part)
        made.append((verb or model.encode)(floats.contiguous(memory_format=layout) if channels_last else floats))
    if len(made) == 1:
        return made[0]
    return ImageFeatures(*(None if levels[0] is None else torch.cat(levels) for levels in zip(*made, strict=True)))  # type: ignore[arg-type]


def per_object(features: ImageFeatures, batch: VideoBatch) -> Features:
    """Features of frame t for the objects of the batch, from features of all frames (B*T rows, clip-major).

    With one clip the single row is shared by all objects instead of being copied.
    """
    frames = batch.num_frames
    if batch.frames.shape[0] == 1:
        return lambda t: features.of(slice(t, t + 1))
    return lambda t: features.of(batch.video_of * frames + t)  # flat index clip*T + t (SAM 2 release)


def bank_for(batch: VideoBatch) -> MemoryBank:
    """The bank of a training clip: its length scales pointer distances, prompted frames of the future are read."""
    return MemoryBank(policy=RecallPolicy(clip_length=batch.num_frames))


def track_objects(
    tracker: Tracker, features: ImageFeatures, batch: VideoBatch, prompter: Prompter
) -> tuple[FrameOutput, ...]:
    """Track the objects of the batch; one output a frame."""
    return rollout(tracker, per_object(features, batch), prompter, num_frames=batch.num_frames, bank=bank_for(batch))


def track_with_memory_of(
    model: Tracker, features: ImageFeatures, batch: VideoBatch, student: tuple[FrameOutput, ...], replay: Replay
) -> tuple[FrameOutput, ...]:
    """The teacher's answers when it remembers the student's masks instead of its own (stage.teacher_memory=student)."""
    at, bank = per_object(features, batch), bank_for(batch)
    outputs: dict[int, FrameOutput] = {}
    for t in replay.order(batch.num_frames):
        frame = at(t)
        outputs[t] = observe(model, bank, frame, t, replay.at(t))
        # the teacher's pointer beside the student's mask
        theirs = student[t].final
        given = outputs[t].final  # a mask that was given has the teacher's size
        seen = Decoded(theirs.logits.detach(), theirs.iou.detach(), theirs.presence, given.pointer, given.prompts)
        bank = bank.write(t, model.memorize(frame.f16, seen), prompted=outputs[t].prompted)
    return tuple(outputs[t] for t in range(batch.num_frames))


# --- some objects of a batch at a time ---


def parts_of(num_objects: int, chunk: int) -> list[Among]:
    """All objects, `chunk` at a time (0: all at once)."""
    size = chunk or num_objects
    starts = range(0, num_objects, max(size, 1)) or (0,)
    return [Among(slice(at, min(at + size, num_objects)), num_objects) for at in starts]


def objects_of(batch: VideoBatch, rows: slice) -> VideoBatch:
    """The same clips with some of their objects."""
    return replace(batch, masks=batch.masks[:, rows], video_of=batch.video_of[rows])


def together(parts: list[tuple[FrameOutput, ...]]) -> tuple[FrameOutput, ...]:
    """Outputs of the parts of a batch as outputs of the whole. Every part was asked equally often (one plan for all)."""
    return parts[0] if len(parts) == 1 else tuple(_frame(frames) for frames in zip(*parts, strict=True))


def detached(outputs: tuple[FrameOutput, ...]) -> tuple[FrameOutput, ...]:
    """The same values without the graph."""
    return _detached(outputs)


def _detached(value: Any) -> Any:
    """Tensors in tuples, named or not."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, tuple):
        return value
    kind: Any = type(value)
    parts = [_detached(one) for one in value]
    return tuple(parts) if kind is tuple else kind(*parts)  # a NamedTuple takes its fields one by one


def _frame(parts: tuple[FrameOutput, ...]) -> FrameOutput:
    rounds = tuple(_answer(answers) for answers in zip(*(part.rounds for part in parts), strict=True))
    # without memory F_M is F16 plus a constant, in one clip one row for all objects: nobody reads it
    f_m = torch.cat([part.f_m for part in parts]) if parts[0].recalled else parts[0].f_m
    return FrameOutput(rounds, f_m, parts[0].recalled)


def _answer(parts: tuple[Decoded, ...]) -> Decoded:
    given = [part.prompts for part in parts if part.prompts is not None]
    prompts = Prompts(*(_joined(values) for values in zip(*given, strict=True))) if given else None
    return Decoded(*(torch.cat(values) for values in zip(*(part[:4] for part in parts), strict=True)), prompts=prompts)


def _joined(values: Iterable[Tensor | None]) -> Tensor | None:
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
