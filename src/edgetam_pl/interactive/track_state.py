"""What a session keeps of an object, and how it changes on a frame. Immutable: putting an old record back is undoing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.interactive.options import HoleFilling, SessionOptions
from edgetam_pl.interactive.user_prompts import UserPrompts
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.frame_tracker import FrameTracker
from edgetam_pl.tracking.prompters import no_prompt, prompt_after_tracking, prompt_at_once
from edgetam_pl.tracking.step import observe
from edgetam_pl.types import Decoded, Memory


class ObjectMask(NamedTuple):
    """The answer that is kept for an object on a frame."""

    logits: Tensor  # (1, 1, S/4, S/4) float32
    presence: Tensor  # (1, 1)
    iou: Tensor  # (1, 1)
    tracked: bool = False  # has a propagation passed here? Then a click is a correction
    backwards: bool = False


class PendingMemory(NamedTuple):
    """The answer to a prompt, not yet in the bank: memories are made when propagation starts, once per frame."""

    decoded: Decoded
    prompted: bool


@dataclass(frozen=True)
class ObjectTrack:
    """Everything known of one object."""

    bank: MemoryBank
    prompts: Mapping[int, UserPrompts] = field(default_factory=dict)
    pending: Mapping[int, PendingMemory] = field(default_factory=dict)
    answers: Mapping[int, ObjectMask] = field(default_factory=dict)
    corrected: Mapping[int, Memory] = field(default_factory=dict)
    """Memories of corrections that do not count as prompted: the bank forgets them, and a later pass needs them again."""

    @property
    def remembered_frames(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(t for t, _ in self.bank.prompted), tuple(t for t, _ in self.bank.recent)

    def facing(self, backwards: bool) -> MemoryBank:
        """The bank, read in the direction of travel."""
        return replace(self.bank, policy=replace(self.bank.policy, backwards=backwards))

    def passed(self, t: int, *, backwards: bool) -> ObjectTrack:
        """After a propagation came to frame t, where a prompt had given the answer."""
        bank = self.bank
        if t in self.corrected:
            bank = bank.write(t, self.corrected[t], prompted=False)
        answer = self.answers[t]._replace(tracked=True, backwards=backwards)
        return replace(self, bank=bank, answers={**self.answers, t: answer})

    def within_reach(self, t: int) -> ObjectTrack:
        """Without answers that nobody can ask for again from frame t: as many are kept as there are memories."""
        reach = self.bank.policy.num_pointers
        return replace(self, answers={i: a for i, a in self.answers.items() if abs(i - t) < reach or i in self.prompts})


@dataclass(frozen=True)
class TrackUpdates:
    """The three ways in which tracks change: by a prompt, by making its memory, and by being tracked on a frame."""

    tracker: FrameTracker
    options: SessionOptions
    fill_holes: HoleFilling | None

    def prompted(self, track: ObjectTrack, t: int, given: UserPrompts) -> ObjectTrack:
        """The track after these prompts on frame t; `given` is all that was given there."""
        before = track.answers.get(t)
        corrects = before is not None and before.tracked
        prompts = given.for_model(
            self.tracker,
            previous=None if before is None else before.logits,
            clamp=self.options.clamp_previous or math.inf,
        )
        # a mask is the answer, whatever is remembered; points on a frame never tracked start without memory
        ask = prompt_after_tracking(prompts) if corrects and given.mask is None else prompt_at_once(prompts)
        backwards = before is not None and before.backwards
        output = observe(self.tracker, track.facing(backwards), self.tracker.features(t), t, ask)
        shown = self._filled(output.final)
        was_prompted = any(number == t for number, _ in track.bank.prompted)
        prompted = not corrects or was_prompted or self.options.corrections_are_prompted
        return replace(
            track,
            prompts={**track.prompts, t: given},
            pending={**track.pending, t: PendingMemory(shown, prompted)},
            answers={**track.answers, t: _rows(shown, corrects, backwards)[0]},
        )

    def remembered(self, track: ObjectTrack) -> ObjectTrack:
        """The track with the memories of the prompts since the last time."""
        bank, corrected = track.bank, dict(track.corrected)
        for t, (decoded, prompted) in sorted(track.pending.items()):
            bank = self.tracker.remember(bank, t, decoded, prompted=prompted)
            if not prompted:
                corrected[t] = dict(bank.recent)[t]
        return replace(track, bank=bank, corrected=corrected, pending={})

    def tracked(self, tracks: Sequence[ObjectTrack], t: int, *, backwards: bool) -> list[ObjectTrack]:
        """The tracks after frame t, on which nothing was prompted. They remember the same frames."""
        features = self.tracker.features(t)
        output = observe(self.tracker, _joined([track.facing(backwards) for track in tracks]), features, t, no_prompt)
        memory = self.tracker.memorize(features.f16, output.final)
        answers = _rows(self._filled(output.final), True, backwards)
        memories = [memory] if len(tracks) == 1 else [_row(memory, i) for i in range(len(tracks))]
        return [
            replace(
                track,
                bank=track.facing(backwards).write(t, own, prompted=False),
                answers={**track.answers, t: answer},
            )
            for track, own, answer in zip(tracks, memories, answers, strict=True)
        ]

    def _filled(self, decoded: Decoded) -> Decoded:
        """The answer as it is shown: without small holes."""
        if self.options.fill_holes_area == 0 or self.fill_holes is None:
            return decoded
        return decoded._replace(logits=self.fill_holes(decoded.logits, self.options.fill_holes_area))


def _rows(decoded: Decoded, tracked: bool, backwards: bool) -> list[ObjectMask]:
    """The answer of each object: the best mask, presence, and predicted IoU."""
    iou = decoded.iou.float().amax(dim=1, keepdim=True)
    rows = zip(decoded.best.float().split(1), decoded.presence.float().split(1), iou.split(1), strict=True)
    return [ObjectMask(*row, tracked, backwards) for row in rows]


def _joined(banks: list[MemoryBank]) -> MemoryBank:
    """One bank for several objects that remember the same frames."""
    if len(banks) == 1:
        return banks[0]

    def stacked(entries: tuple[tuple[int, Memory], ...]) -> tuple[int, Memory]:
        memories = [memory for _, memory in entries]
        tokens, pos = (torch.cat(part) for part in zip(*((m.tokens, m.pos.expand_as(m.tokens)) for m in memories)))
        return entries[0][0], Memory(tokens, pos, torch.cat([m.pointer for m in memories]), memories[0].grid)

    prompted = tuple(stacked(entries) for entries in zip(*(bank.prompted for bank in banks)))
    recent = tuple(stacked(entries) for entries in zip(*(bank.recent for bank in banks)))
    return replace(banks[0], prompted=prompted, recent=recent)


def _row(memory: Memory, index: int) -> Memory:
    """The memory of one object of several, in storage of its own so that it can be forgotten alone."""
    part = slice(index, index + 1)
    pos = memory.pos if memory.pos.shape[0] == 1 else memory.pos[part].clone()
    return Memory(memory.tokens[part].clone(), pos, memory.pointer[part].clone(), memory.grid)
