"""Which frames and which objects of a window become a training clip (after SAM 2's sampler)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetam_pl.data.sample import Header
from edgetam_pl.io.errors import BadSampleError, Cause


@dataclass(frozen=True)
class ClipSelection:
    """Positions of the chosen frames in the window, in playing order, and of the chosen objects."""

    frames: tuple[int, ...]
    objects: tuple[int, ...]

    def label(self, header: Header) -> str:
        """A name from which people can find the clip again: KEY@first frame number, < when played backwards."""
        arrow = "<" if self.frames[:1] > self.frames[-1:] else ""
        return f"{header.key}@{header.frames[self.frames[0]]}{arrow}"


def choose(
    header: Header, rng: np.random.Generator, *, num_frames: int, max_objects: int, reverse: float, train: bool
) -> ClipSelection:
    """Consecutive frames whose first one shows something, and at most `max_objects` of the objects seen there.

    Training draws among all such stretches, played backwards with probability `reverse`; otherwise the first stretch and
    the first objects are taken. Objects that appear later are never chosen.

    Raises:
        BadSampleError: TOO_SHORT, or NO_OBJECT when no stretch begins with an object.
    """
    spare = header.num_frames - num_frames
    if spare < 0:
        raise BadSampleError(Cause.TOO_SHORT, f"{header.key} has {header.num_frames} frames; {num_frames} are needed")
    backwards = train and num_frames > 1 and rng.random() < reverse
    starts = [s for s in range(spare + 1) if header.visible(s + num_frames - 1 if backwards else s)]
    if not starts:
        raise BadSampleError(Cause.NO_OBJECT, f"{header.key} shows no object where a clip of {num_frames} frames may begin")
    start = starts[rng.integers(len(starts))] if train else starts[0]
    frames = tuple(range(start, start + num_frames))
    if backwards:
        frames = frames[::-1]
    seen = header.visible(frames[0])
    if len(seen) > max_objects:
        seen = sorted(rng.choice(seen, max_objects, replace=False).tolist()) if train else seen[:max_objects]
    return ClipSelection(frames, tuple(seen))
