"""One frame of tracking, and a whole clip of it. The only per-frame function: training, evaluation, session, export
check and benchmark all call it. State goes in as a bank and comes out as a bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.types import EMPTY_RECALL, Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall

PromptFn = Callable[[Decoded | None], Prompts | None]
"""The user at one frame: given the last answer, or None when there is none yet, returns a prompt or None."""

Features = Callable[[int], ImageFeatures]
"""Image features of frame t, batch 1 (shared by all objects) or one row per object. Eager or lazy: `step` cannot tell."""


class Tracker(Protocol):
    """Anything with these three methods tracks (the fourth, `encode`, is behind `Features`)."""

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """Eq. 2: F_M = A(F16, M_1 ... M_T). With EMPTY_RECALL recalled: F16 plus the no-memory embedding."""
        ...

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        """Eq. 3: O = D(F_M, F4, F8, P)."""
        ...

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        """Eq. 4 to 6: M = compress(E_mem(F16, O))."""
        ...


class VideoModel(Tracker, Protocol):
    """A tracker that starts from frames, as `FrameTracker` needs it: `TrackAnything`, `FastTracker`."""

    @property
    def image_size(self) -> int:
        """S, side of the square input in pixels."""
        ...

    def normalise(self, frames: Tensor) -> Tensor:
        """(..., 3, S, S) uint8 RGB -> float, as `encode` wants it."""
        ...

    def encode(self, images: Tensor) -> ImageFeatures:
        """Eq. 1: F4, F8, F16 = E_img(I)."""
        ...

    def decode(
        self,
        f_m: Tensor,
        features: ImageFeatures,
        prompts: Prompts | None,
        *,
        gate: bool = True,
        dynamic_multimask: bool = False,
    ) -> Decoded:
        """Eq. 3. `gate`: masks of objects judged absent become ABSENT_LOGIT; `dynamic_multimask`: see `most_stable`."""
        ...

    def memorize(self, f16: Tensor, decoded: Decoded, *, binarize: bool = False) -> Memory:
        """Eq. 4 to 6. `binarize`: the mask that is remembered is black and white."""
        ...


class Prompter(Protocol):
    """Who prompts, and in which order frames are visited."""

    def order(self, num_frames: int) -> Sequence[int]:
        """The frames in processing order: prompted ones first."""
        ...

    def at(self, t: int) -> PromptFn:
        """The user at frame t."""
        ...


def observe(tracker: Tracker, bank: MemoryBank, features: ImageFeatures, t: int, ask: PromptFn) -> FrameOutput:
    """Answer for frame t until no more prompts come."""
    first = ask(None)
    recall = bank.recall(t) if first is None else EMPTY_RECALL  # prompted before being seen: a fresh start
    f_m = tracker.attend(features.f16, recall)
    rounds = [tracker.decode(f_m, features, first)]
    while (correction := ask(rounds[-1])) is not None:  # corrected after being seen: memory stays
        rounds.append(tracker.decode(f_m, features, correction))
    return FrameOutput(tuple(rounds), f_m, recalled=bool(recall.frames))


def remember(tracker: Tracker, bank: MemoryBank, features: ImageFeatures, t: int, output: FrameOutput) -> MemoryBank:
    """The bank with what was decided for frame t."""
    return bank.write(t, tracker.memorize(features.f16, output.final), prompted=output.prompted)


def step(
    tracker: Tracker, bank: MemoryBank, features: ImageFeatures, t: int, ask: PromptFn
) -> tuple[FrameOutput, MemoryBank]:
    """Observe frame t, then remember it."""
    output = observe(tracker, bank, features, t, ask)
    return output, remember(tracker, bank, features, t, output)


def rollout(
    tracker: Tracker, features: Features, prompter: Prompter, *, num_frames: int, bank: MemoryBank
) -> tuple[FrameOutput, ...]:
    """Track a clip of `num_frames` frames; outputs in frame order. The last frame visited is not remembered: nobody
    would read it.

    Raises:
        ValueError: the prompter does not visit every frame exactly once.
    """
    order = tuple(prompter.order(num_frames))
    if sorted(order) != list(range(num_frames)):
        raise ValueError(f"The prompter visits frames {order}; expected each of 0 ... {num_frames - 1} exactly once.")
    outputs: dict[int, FrameOutput] = {}
    for visited, t in enumerate(order, start=1):
        frame = features(t)
        outputs[t] = observe(tracker, bank, frame, t, prompter.at(t))
        if visited < num_frames:
            bank = remember(tracker, bank, frame, t, outputs[t])
    return tuple(outputs[t] for t in range(num_frames))
