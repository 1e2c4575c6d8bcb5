"""Protocols: which prompts a clip gets, when, and what is taken as the answer. Each is a generator of answers, frame by
frame, so that a clip of any length fits in memory.

Semi-supervised VOS (SAM 2 Sec. 6.2), first-frame prompts (Table 4 of EdgeTAM). Clicks are placed in native pixels; only the
model's input is scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.evaluation.clips import Clip, Masks
from edgetam_pl.tracking.clicks import centre_click, tight_box
from edgetam_pl.tracking.frame_tracker import FrameTracker, TrackingOptions, without_overlap
from edgetam_pl.tracking.prompters import CLAMP, correct, no_prompt, prompt_at_once
from edgetam_pl.tracking.step import PromptFn, VideoModel
from edgetam_pl.types import ABSENT_LOGIT, Decoded, Prompts

FIRST_PROMPTS = ("mask", "box", "1-click", "3-click", "5-click")
"""Prompts that an object's first frame can get."""


class Answer(NamedTuple):
    """Masks of one frame. `round` counts prompted frames in promptable VOS and clicks in Segment Anything, else it is 0."""

    t: int
    masks: Masks  # (O, H, W) of the objects in `objects`
    objects: Sequence[int]
    round: int = 0


def clip_tracker(
    model: VideoModel, clip: Clip, *, device: torch.device | str = "cpu", autocast: torch.dtype | None = None
) -> FrameTracker:
    """The model in front of a clip. `autocast`: bfloat16 on accelerators, as published results were made."""
    options = TrackingOptions(autocast=autocast)
    return FrameTracker(model, clip.frames.read, clip.size, clip.num_frames, torch.device(device), options)


def follow(tracker: FrameTracker, clip: Clip, *, prompt: str = "mask", non_overlap: bool = True) -> Iterator[Answer]:
    """Prompt each object on its first frame, then track it to the end. With `prompt="mask"`: semi-supervised VOS.

    Objects that start on one frame go together, others have a bank of their own and are joined where they start; objects
    do not influence one another but in `non_overlap`, which concerns answers only, never memories.

    Raises:
        ValueError: an unknown prompt.
    """
    prompt_for = first_prompt(prompt)
    groups = {
        start: [i for i, item in enumerate(clip.objects) if item.start == start]
        for start in sorted({item.start for item in clip.objects})
    }
    banks = dict.fromkeys(groups, tracker.empty_bank())  # immutable: one to begin with serves all
    for t in range(clip.num_frames):
        logits = torch.full((len(clip.objects), *clip.size), ABSENT_LOGIT, device=tracker.device)
        for start, members in groups.items():
            if start > t:
                continue
            ask = prompt_for(tracker, clip.truths.read(t)[members]) if t == start else no_prompt
            output, banks[start] = tracker.step(banks[start], t, ask)
            logits[members] = tracker.enlarged(output.final.best)
        yield Answer(t, decided(logits, non_overlap=non_overlap), range(len(clip.objects)))


def repeat(clip: Clip) -> Iterator[Answer]:
    """No tracker at all: each object's first mask on every frame that follows. What any tracker must beat."""
    held = np.zeros((len(clip.objects), *clip.size), dtype=bool)
    for t in range(clip.num_frames):
        starting = [i for i, item in enumerate(clip.objects) if item.start == t]
        if starting:
            held[starting] = clip.truths.read(t)[starting]
        yield Answer(t, held.copy(), range(len(clip.objects)))


def first_prompt(prompt: str) -> Callable[[FrameTracker, Masks], PromptFn]:
    """The user who prompts first frames, given the truth (O, H, W) of the objects that start.

    Raises:
        ValueError: an unknown prompt.
    """
    if prompt == "mask":
        return lambda tracker, truth: prompt_at_once(tracker.mask_prompt(truth))
    if prompt == "box":
        return lambda tracker, truth: prompt_at_once(_scaled(tracker, tight_box(torch.from_numpy(truth))))
    clicks, _, unit = prompt.partition("-")
    if unit == "click" and clicks.isdigit() and int(clicks) > 0:
        return lambda tracker, truth: clicking(tracker, truth, clicks=int(clicks))
    raise ValueError(f"There is no prompt {prompt!r}; known ones: {', '.join(FIRST_PROMPTS)}.")


def clicking(tracker: FrameTracker, truth: Masks, *, clicks: int, track_first: bool = False) -> PromptFn:
    """A user who clicks in the middle of the largest error, gets the new answer, and clicks again.

    Args:
        truth: (O, H, W) of the objects, native.
        clicks: clicks in all.
        track_first: correct what was tracked; otherwise the first click is the centre of the truth.
    """
    wanted = torch.from_numpy(truth)
    remaining = clicks

    def ask(answer: Decoded | None) -> Prompts | None:
        nonlocal remaining
        if remaining == 0 or (answer is None and track_first):
            return None
        remaining -= 1
        if answer is None:
            return _scaled(tracker, centre_click(wanted, torch.zeros_like(wanted)))
        found = tracker.enlarged(answer.best).cpu() > 0
        return correct(answer, _scaled(tracker, centre_click(wanted, found)), clamp=CLAMP)

    return ask


def decided(logits: Tensor, *, non_overlap: bool) -> Masks:
    """Masks (O, H, W) from logits: above 0, and where objects may not overlap, only the highest of a pixel."""
    return ((without_overlap(logits) if non_overlap else logits) > 0).cpu().numpy()


def _scaled(tracker: FrameTracker, prompts: Prompts) -> Prompts:
    """Points and boxes in native pixels, moved to the model's input."""
    assert prompts.points is not None
    assert prompts.labels is not None
    return tracker.point_prompt(prompts.points, prompts.labels)
