"""Protocols: what is said about a clip, when, and what is taken as the answer. Each is a generator of answers, frame by
frame, so that a clip of any length fits in memory.

Semi-supervised VOS (SAM 2 Sec. 6.2), first-frame prompts (Table 4 of EdgeTAM). Masks and clicks are looked at in native
pixels; only what the model hears is scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from edgetam_pl.evaluation.clip_tracker import Eyes, Follower, absent, decided, silent
from edgetam_pl.evaluation.clips import Clip, Masks
from edgetam_pl.tracking.clicks import centre_click, tight_box
from edgetam_pl.tracking.prompters import correct
from edgetam_pl.tracking.step import PromptFn
from edgetam_pl.types import Decoded, Prompts

CLAMP = 32.0
"""Logits that a click corrects are handed back clamped to this (SAM 2 release, interactive predictor)."""

FIRST_PROMPTS = ("mask", "box", "1-click", "3-click", "5-click")
"""What can be said about an object's first frame."""


class Answer(NamedTuple):
    """Masks of one frame. `round` counts prompted frames in promptable VOS and clicks in Segment Anything, else it is 0."""

    t: int
    masks: Masks  # (O, H, W) of the objects in `objects`
    objects: Sequence[int]
    round: int = 0


def follow(eyes: Eyes, clip: Clip, *, prompt: str = "mask", non_overlap: bool = True) -> Iterator[Answer]:
    """Prompt each object on its first frame, then follow it to the end. With `prompt="mask"`: semi-supervised VOS.

    Objects that start on one frame go together, others have a bank of their own and are joined where they start; objects
    do not influence one another but in `non_overlap`, which concerns answers only, never memories.

    Raises:
        ValueError: an unknown prompt.
    """
    say = first_prompt(prompt)
    by_start = groupby(sorted(range(len(clip.objects)), key=_start_of(clip)), key=_start_of(clip))
    groups = [(start, list(members), Follower(eyes, eyes.bank())) for start, members in by_start]
    for t in range(clip.num_frames):
        logits = absent(clip, eyes.precision.device)
        awake = [group for group in groups if group[0] <= t]
        features = eyes.see(t) if awake else None
        for start, members, follower in awake:
            assert features is not None
            ask = say(eyes, clip.truths.read(t)[members]) if t == start else silent
            logits[members] = eyes.enlarged(follower.look(t, features, ask).final)
        yield Answer(t, decided(logits, non_overlap=non_overlap), range(len(clip.objects)))


def repeat(clip: Clip) -> Iterator[Answer]:
    """No tracker at all: each object's first mask on every frame that follows. What any tracker must beat."""
    held = np.zeros((len(clip.objects), *clip.size), dtype=bool)
    for t in range(clip.num_frames):
        starting = [i for i, item in enumerate(clip.objects) if item.start == t]
        if starting:
            held[starting] = clip.truths.read(t)[starting]
        yield Answer(t, held.copy(), range(len(clip.objects)))


def first_prompt(prompt: str) -> Callable[[Eyes, Masks], PromptFn]:
    """The person who speaks about first frames, given the truth (O, H, W) of the objects that start.

    Raises:
        ValueError: an unknown prompt.
    """
    if prompt == "mask":
        return lambda eyes, truth: _once(eyes.mask_prompt(truth))
    if prompt == "box":
        return lambda eyes, truth: _once(eyes.scaled(tight_box(torch.from_numpy(truth))))
    clicks, _, unit = prompt.partition("-")
    if unit == "click" and clicks.isdigit() and int(clicks) > 0:
        return lambda eyes, truth: clicking(eyes, truth, clicks=int(clicks))
    raise ValueError(f"There is no prompt {prompt!r}; known ones: {', '.join(FIRST_PROMPTS)}.")


def clicking(eyes: Eyes, truth: Masks, *, clicks: int, look_first: bool = False) -> PromptFn:
    """A person who clicks in the middle of the largest error, sees the new answer, and clicks again.

    Args:
        truth: (O, H, W) of the objects, native.
        clicks: clicks in all.
        look_first: see what was tracked before the first click; otherwise the first click is the centre of the truth.
    """
    wanted = torch.from_numpy(truth)
    remaining = clicks

    def ask(answer: Decoded | None) -> Prompts | None:
        nonlocal remaining
        if remaining == 0 or (answer is None and look_first):
            return None
        remaining -= 1
        if answer is None:
            return eyes.scaled(centre_click(wanted, torch.zeros_like(wanted)))
        return correct(answer, eyes.scaled(centre_click(wanted, eyes.enlarged(answer).cpu() > 0)), clamp=CLAMP)

    return ask


def _once(prompts: Prompts) -> PromptFn:
    """Say it before the first answer, then nothing."""
    return lambda answer: prompts if answer is None else None


def _start_of(clip: Clip) -> Callable[[int], int]:
    return lambda index: clip.objects[index].start
