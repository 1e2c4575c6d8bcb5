"""The clip that every export is judged on, made from a seed: occlusion, exit and re-entry; and the prompts on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.types import BACKGROUND, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, Prompts

BASE = 256
"""Frames are drawn at up to this side and enlarged by repetition, so that they are small next to the packages."""

LEAST_FRAMES = 4
"""Frames that a rollout needs for a prompt, a tracked frame and a correction."""

BALL, BOX = 0, 1
"""Index of the two objects."""


@dataclass(frozen=True)
class CheckClip:
    """T frames with two objects. The ball passes behind a bar, leaves on the right and comes back; the box stays in view."""

    small: Tensor  # (T, 3, s, s) uint8
    small_masks: Tensor  # (T, 2, s, s) bool: ball, box
    factor: int
    size: int

    @property
    def num_frames(self) -> int:
        return len(self.small)

    def frame(self, t: int) -> Tensor:
        """(1, 3, S, S) uint8."""
        return self._enlarged(self.small[t])[None]

    def mask(self, t: int, which: int) -> Tensor:
        """(S, S) bool."""
        return self._enlarged(self.small_masks[t, which])

    def centre(self, t: int, which: int) -> tuple[float, float]:
        """(x, y) of the visible part of an object, in pixels; of the frame where nothing of it is visible."""
        rows, columns = torch.nonzero(self.mask(t, which), as_tuple=True)
        if not len(rows):
            return self.size / 2, self.size / 2
        middle = len(rows) // 2  # a pixel of the object itself, which a mean need not be
        return float(columns[middle]), float(rows[middle])

    def box(self, t: int, which: int) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) of an object, in pixels."""
        rows, columns = torch.nonzero(self.mask(t, which), as_tuple=True)
        if not len(rows):
            return 0.0, 0.0, self.size - 1.0, self.size - 1.0
        return float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())

    def _enlarged(self, x: Tensor) -> Tensor:
        big = x.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return big[..., : self.size, : self.size]


def draw(num_frames: int, size: int, *, seed: int) -> CheckClip:
    """Draw the clip. Equal arguments give equal pixels on every machine."""
    factor = -(-size // BASE)
    side = -(-size // factor)
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    coarse = rng.rand(3, 9, 9)
    background = _stretch(coarse, side) * 0.5 + 0.15 + 0.1 * np.sin(40 * x + 25 * y)[None]
    skins = [
        _stretch(rng.rand(3, 7, 7), side) * 0.6 + 0.4 * np.array(tint)[:, None, None]
        for tint in ((1, 0.5, 0.1), (0.1, 0.5, 1))
    ]
    bar = np.abs(x - 0.5) < 0.12
    frames, masks = [], []
    for t in range(num_frames):
        phase = t / max(num_frames - 1, 1)
        # along a parabola: from the left, behind the bar, out on the right at 0.4, in again at 0.6, back behind the bar
        ball = ((x - (1.2 - 4 * (phase - 0.5) ** 2)) ** 2 + (y - 0.35 - 0.1 * np.sin(9 * phase)) ** 2) < 0.13**2
        box = (np.abs(x - 0.3 - 0.1 * np.cos(6 * phase)) < 0.12) & (np.abs(y - 0.75) < 0.09)
        frame = np.where(ball, np.roll(skins[BALL], t, axis=2), background)
        frame = np.where(bar, 0.3 + 0.2 * np.sin(60 * y), frame)
        frame = np.where(box, skins[BOX], frame)
        frames.append((frame.clip(0, 1) * 255).astype(np.uint8))
        masks.append(np.stack([ball & ~bar & ~box, box]))
    return CheckClip(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(masks)), factor, size)


Entries = Mapping[int, Sequence[Prompts | None]]
"""Prompts by frame; a leading None lets the tracker answer first."""


@dataclass(frozen=True)
class Scenario:
    """One rollout of the gate."""

    name: str
    num_frames: int
    entries: Entries


def scenarios(clip: CheckClip, *, short_frames: int) -> tuple[Scenario, ...]:
    """A long one from a click, with corrections before and after the exit; short ones from a box and from a mask.

    The short ones test banks that are not yet full; the one from a box also has a second prompted frame in the future.
    """
    last = clip.num_frames - 1
    short = min(short_frames, clip.num_frames)
    assert short >= LEAST_FRAMES, f"a rollout of {short} frames shows nothing"
    early, late = max(1, last // 5), max(2, last * 3 // 4)
    click = {
        0: [_click_prompt(clip, 0, BALL, FOREGROUND)],
        early: [None, _click_prompt(clip, early, BALL, FOREGROUND), _click_prompt(clip, early, BOX, BACKGROUND)],
        late: [None, _click_prompt(clip, late, BALL, FOREGROUND)],
    }
    box = {0: [_box_prompt(clip, 0, BOX)], short // 2: [_box_prompt(clip, short // 2, BOX)]}
    mask = {
        0: [Prompts(mask=clip.mask(0, BALL)[None, None])],
        short - 2: [None, _click_prompt(clip, short - 2, BALL, FOREGROUND)],
    }
    return (
        Scenario("click", clip.num_frames, click),
        Scenario("box", short, box),
        Scenario("mask", short, mask),
    )


def _click_prompt(clip: CheckClip, t: int, which: int, label: int) -> Prompts:
    return Prompts(torch.tensor([[clip.centre(t, which)]]), torch.tensor([[label]]))


def _box_prompt(clip: CheckClip, t: int, which: int) -> Prompts:
    x0, y0, x1, y1 = clip.box(t, which)
    return Prompts(torch.tensor([[[x0, y0], [x1, y1]]]), torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]))


def _stretch(coarse: np.ndarray, side: int) -> np.ndarray:
    """(3, k, k) -> (3, side, side), bilinear between the corners."""
    k = coarse.shape[1]
    at = np.linspace(0, k - 1.001, side)
    low = at.astype(int)
    share = at - low
    rows = coarse[:, low] * (1 - share)[None, :, None] + coarse[:, low + 1] * share[None, :, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
