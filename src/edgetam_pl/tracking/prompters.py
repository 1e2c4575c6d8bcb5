"""Who prompts, and when: the users that training, evaluation and the session put in front of a tracker (SAM 2 release).

A `Prompter` gives the order of the frames and, per frame, a `PromptFn`: the prompt before the frame was answered, and after
each answer. Whether a frame starts without memory or is corrected follows from that alone (`tracking/step.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.tracking.clicks import Among, noisy_box, uniform_click
from edgetam_pl.tracking.step import PromptFn
from edgetam_pl.types import Decoded, FrameOutput, Prompts

CLAMP = 32.0
"""Logits that a click corrects are handed back clamped to this (SAM 2 release, interactive predictor)."""


def no_prompt(answer: Decoded | None) -> Prompts | None:
    """A user with nothing to say: the frame is only tracked."""
    return None


def prompt_at_once(prompts: Prompts) -> PromptFn:
    """A user who prompts before any answer, then nothing more."""
    return lambda answer: prompts if answer is None else None


def prompt_after_tracking(prompts: Prompts) -> PromptFn:
    """A user who lets the frame be tracked, then corrects it once."""
    remaining = [prompts]
    return lambda answer: None if answer is None or not remaining else remaining.pop()


def correct(answer: Decoded, clicks: Prompts, *, clamp: float = inf) -> Prompts:
    """`clicks` added to all earlier prompts of the frame, with the answer's own logits to improve on.

    Training hands the logits back as they are: not detached, not clamped (SAM 2 release). The interactive predictor
    clamps them to +-32.
    """
    before = answer.prompts or Prompts()
    points = _joined(before.points, clicks.points)  # (O, P, 2), (O, 1, 2) -> (O, P + 1, 2)
    labels = _joined(before.labels, clicks.labels)  # (O, P + 1)
    previous = answer.best if clamp == inf else answer.best.clamp(-clamp, clamp)
    return Prompts(points=points, labels=labels, previous=previous)


class GivenMasks:
    """Gives the masks of some frames as the answer: semi-supervised video segmentation, and mask prompts in training."""

    def __init__(self, masks: Tensor, frames: Sequence[int] = (0,)) -> None:
        """`masks` is (T, O, S, S) bool, indexed by frame; only the entries of `frames` are read."""
        beyond = [t for t in frames if not 0 <= t < len(masks)]
        if beyond:
            raise ValueError(f"Frames {beyond} have no mask: there are masks for frames 0 to {len(masks) - 1}.")
        self.masks, self.frames = masks, tuple(frames)

    def order(self, num_frames: int) -> Sequence[int]:
        return _first(self.frames, num_frames)

    def at(self, t: int) -> PromptFn:
        return prompt_at_once(Prompts(mask=self.masks[t][:, None])) if t in self.frames else no_prompt


class Script:
    """Prompts from a list. Each entry of a frame adds to the ones before: clicks accumulate and correct the last answer.

    An entry None lets the tracker answer by itself: `Script({0: [click], 5: [None, click]})` prompts frame 0 and corrects
    frame 5 after it was tracked. Frames prompted before being seen come first, in the order of the mapping.
    """

    def __init__(self, entries: Mapping[int, Sequence[Prompts | None]]) -> None:
        for t, prompts in entries.items():
            if any(entry is None for entry in prompts[1:]):
                raise ValueError(f"Frame {t} of the script: only the first entry may be None, it means 'track first'.")
        self.entries = {t: tuple(prompts) for t, prompts in entries.items()}

    def order(self, num_frames: int) -> Sequence[int]:
        return _first([t for t, prompts in self.entries.items() if prompts and prompts[0] is not None], num_frames)

    def at(self, t: int) -> PromptFn:
        entries = iter(self.entries.get(t, ()))

        def ask(answer: Decoded | None) -> Prompts | None:
            prompts = next(entries, None)
            if prompts is None or answer is None or prompts.mask is not None or prompts.previous is not None:
                return prompts  # the first prompt, or one that leaves nothing to add
            return correct(answer, prompts, clamp=CLAMP)

        return ask


class Replay:
    """Repeats the prompts given to another tracker: the teacher gets what the student got.

    Points, boxes and masks are the ones the other was given, the logits to improve on are the tracker's own.
    """

    def __init__(
        self,
        outputs: Sequence[FrameOutput],
        order: Sequence[int] = (),
        *,
        own_logits: bool = True,
        sides: tuple[int, int] = (1, 1),
    ) -> None:
        """`order` is the order in which the other visited the frames; empty: prompted frames first, all in time order.
        Without `own_logits` the logits to improve on are the other's as well. `sides`: the other's input size in pixels, and
        the one of the tracker that hears the replay."""
        self.prompts = prompts_of(outputs)
        self.visited = tuple(order)
        self.own_logits = own_logits
        self.sides = sides

    @classmethod
    def of_prompts(cls, prompts: Sequence[Sequence[Prompts | None]], order: Sequence[int] = ()) -> Replay:
        """A replay of `prompts_of` another tracker's outputs, for instance from a file."""
        replay = cls((), order)
        replay.prompts = tuple(tuple(given) for given in prompts)
        return replay

    def order(self, num_frames: int) -> Sequence[int]:
        return self.visited or _first([t for t, given in enumerate(self.prompts) if given[0] is not None], num_frames)

    def at(self, t: int) -> PromptFn:
        prompts: Iterator[Prompts | None] = iter(self.prompts[t])

        def ask(answer: Decoded | None) -> Prompts | None:
            given = next(prompts, None)
            if given is None:
                return None
            if given.previous is None or answer is None:
                return at_side(given, *self.sides)
            if self.own_logits:
                return at_side(given._replace(previous=None), *self.sides)._replace(previous=answer.best)
            return at_side(given._replace(previous=given.previous.detach()), *self.sides)

        return ask


def at_side(prompts: Prompts, side: int, other: int) -> Prompts:
    """Prompts of a model of `side` pixels for one of `other` pixels: the same places in the picture. A mask is object where
    at least half of a pixel is; logits are interpolated."""
    if side == other:
        return prompts
    points, mask, previous = prompts.points, prompts.mask, prompts.previous
    if points is not None:
        points = (points + 0.5) * (other / side) - 0.5  # centres of pixels keep their places
    if mask is not None:
        mask = _resized(mask.float(), (other, other)) >= 0.5
    if previous is not None:
        previous = _resized(previous, (round(previous.shape[-2] * other / side), round(previous.shape[-1] * other / side)))
    return Prompts(points, prompts.labels, mask, previous)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (O, 1, h, w) float at another size, antialiased."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False, antialias=True)


def prompts_of(outputs: Sequence[FrameOutput]) -> tuple[tuple[Prompts | None, ...], ...]:
    """For each frame, the prompt before each of its answers; None where the tracker answered by itself."""
    return tuple(tuple(answer.prompts for answer in output.rounds) for output in outputs)


class PromptMix(Protocol):
    """How often users do what; `config.PromptConfig` is one."""

    point_prob: float
    box_prob: float
    max_prompted_frames: int
    max_corrected_frames: int
    corrections: int
    ground_truth_prob: float


@dataclass(frozen=True)
class PromptPlan:
    """What the user will do in one batch, without the coordinates: the same on all ranks, so that all take the same path
    and none waits for another."""

    initial: tuple[int, ...]
    """Frames prompted before being seen, in the order they are visited."""
    by_points: bool
    """Prompted by points and boxes; otherwise by masks."""
    boxed: tuple[bool, ...] = ()
    """For each initial frame: a box, or a click? Only read when `by_points`."""
    corrected: tuple[int, ...] = ()
    """Frames that receive correction clicks."""
    from_truth: tuple[tuple[bool, ...], ...] = ()
    """For each corrected frame and each click: ignore the prediction and click inside the truth?"""


def draw_plan(mix: PromptMix, num_frames: int, generator: torch.Generator) -> PromptPlan:
    """Draw a plan for a clip. `generator` must be in the same state on every rank.

    Frame 0 is always prompted. With the release's values the kinds are: masks on 1 or 2 frames, 1/4 each; points on 1
    frame with 1 or 2 corrected, 1/8 each; points on 2 frames, both corrected, 1/4. Images are always prompted by points.
    """
    # which frames are prompted before being seen, and how
    by_points = num_frames == 1 or _chance(mix.point_prob, generator)
    num_initial = _integer(1, min(mix.max_prompted_frames, num_frames), generator)
    initial = (0, *_some(range(1, num_frames), num_initial - 1, generator))
    boxed = tuple(_chance(mix.box_prob, generator) for _ in initial) if by_points else ()
    # which frames are corrected: the prompted ones first, then others at random
    most = min(mix.max_corrected_frames, num_frames) if by_points and mix.corrections > 0 else 0
    num_corrected = _integer(min(num_initial, most), most, generator)
    others = [t for t in range(num_frames) if t not in initial]
    corrected = (*initial[:num_corrected], *_some(others, num_corrected - num_initial, generator))
    from_truth = tuple(tuple(_chance(mix.ground_truth_prob, generator) for _ in range(mix.corrections)) for _ in corrected)
    return PromptPlan(initial, by_points, boxed, corrected, from_truth)


class SimulatedClicks:
    """The simulated user of training: follows a plan, looks for errors, clicks on them (SAM 2 release, training sampler).

    `generator` gives the coordinates and should differ from rank to rank. Errors are looked for at the resolution of the
    truth, in the up-sampled logits of the last answer.
    """

    def __init__(self, masks: Tensor, plan: PromptPlan, generator: torch.Generator, *, among: Among | None = None) -> None:
        """`masks` is (T, O, S, S) bool, the truth; `among` says which objects these are when not all are here."""
        self.masks, self.plan, self.generator, self.among = masks, plan, generator, among

    def order(self, num_frames: int) -> Sequence[int]:
        return _first(self.plan.initial, num_frames)

    def at(self, t: int) -> PromptFn:
        if not self.plan.by_points:
            return GivenMasks(self.masks, self.plan.initial).at(t)
        truth = self.masks[t]  # (O, S, S)
        clicks = iter(self.plan.from_truth[self.plan.corrected.index(t)] if t in self.plan.corrected else ())

        def ask(answer: Decoded | None) -> Prompts | None:
            if answer is None:
                return self._first_prompt(t) if t in self.plan.initial else None
            from_truth = next(clicks, None)
            if from_truth is None:
                return None
            predicted = torch.zeros_like(truth) if from_truth else _predicted(answer, truth.shape[-1])
            return correct(answer, uniform_click(truth, predicted, generator=self.generator, among=self.among))

        return ask

    def _first_prompt(self, t: int) -> Prompts:
        truth = self.masks[t]
        if self.plan.boxed[self.plan.initial.index(t)]:
            return noisy_box(truth, generator=self.generator, among=self.among)
        return uniform_click(truth, torch.zeros_like(truth), generator=self.generator, among=self.among)


def _joined(before: Tensor | None, after: Tensor | None) -> Tensor | None:
    parts = [part for part in (before, after) if part is not None]
    return torch.cat(parts, dim=1) if parts else None


@torch.no_grad()
def _predicted(answer: Decoded, size: int) -> Tensor:
    """(O, S, S) bool: the best mask of the answer at full resolution."""
    logits = answer.best.float()  # (O, 1, S/4, S/4); bilinear weights in fp32 (SAM 2 release)
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)[:, 0] > 0


def _first(prompted: Sequence[int], num_frames: int) -> tuple[int, ...]:
    """Prompted frames in their order, then the others in time order."""
    return (*prompted, *(t for t in range(num_frames) if t not in prompted))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < probability


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Uniform in low ... high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _some(items: Sequence[int], count: int, generator: torch.Generator) -> tuple[int, ...]:
    """`count` of the items, without replacement, in the order drawn; none if `count` is not positive."""
    return tuple(items[i] for i in torch.randperm(len(items), generator=generator)[: max(count, 0)].tolist())
