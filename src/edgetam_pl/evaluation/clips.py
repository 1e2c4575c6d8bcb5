"""What is evaluated: a clip at its native size, with named objects and the frames on which their truth is known.

Nothing is read before it is asked for, and nothing is kept: a clip of an hour costs no more memory than a clip of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.datasets.frames import ArrayFrames, Frame, FrameSource
from edgetam_pl.datasets.masks import ArrayMasks, MaskSource, dense
from edgetam_pl.io.hashing import sha256_of_lines

__all__ = ["Clip", "ClipObject", "Frame", "FrameSource", "Masks", "TruthSource", "Truths"]

Masks = NDArray[np.bool_]
"""(O, H, W)."""


@dataclass(frozen=True)
class ClipObject:
    """One object of a clip."""

    name: str
    """As the data set calls it: "1" in a palette, "000" in a folder."""
    start: int
    """The frame it is prompted on: its first frame with truth that shows it."""
    annotated: tuple[int, ...]
    """Frames whose truth is known, in order. One alone means that the truth is hidden, and nothing can be scored."""
    group: str = ""
    """seen | unseen, where the data set distinguishes them."""


class TruthSource(Protocol):
    """Where masks come from."""

    @property
    def objects(self) -> Sequence[ClipObject]:
        """O objects, in the order of the masks."""
        ...

    def read(self, t: int) -> Masks:
        """Masks of all objects on frame t, (O, H, W); empty where an object has no truth on that frame."""
        ...

    def fingerprint(self) -> str:
        """Changes when the masks or the names of the objects do."""
        ...


@dataclass(frozen=True)
class Clip:
    """A video, or an image as a video of one frame.

    >>> clip = Clip.of_arrays("toy", np.zeros((3, 8, 8, 3), np.uint8), np.ones((3, 1, 8, 8), bool))
    >>> clip.num_frames, clip.size, [o.start for o in clip.objects]
    (3, (8, 8), [0])
    """

    name: str
    """Unique in its data set."""
    frames: FrameSource
    truths: TruthSource

    @classmethod
    def of_arrays(
        cls,
        name: str,
        frames: NDArray[np.uint8],
        masks: NDArray[np.bool_],
        *,
        stems: Sequence[str] | None = None,
        objects: Sequence[str] | None = None,
    ) -> Clip:
        """A clip in memory: frames (T, H, W, 3) uint8 RGB and masks (T, O, H, W) bool, which may overlap; stems (T) name its
        frames, 00000 ... by default, and objects (O), 1 ... by default.

        Raises:
            ValueError: the shapes do not fit one another.
        """
        if frames.ndim != 4 or masks.ndim != 4 or frames.shape[:3] != (len(masks), *masks.shape[2:]) or not len(frames):
            raise ValueError(
                f"Clip {name}: frames of {frames.shape} and masks of {masks.shape}; "
                f"expected (T, H, W, 3) and (T, O, H, W) with one T, H and W."
            )
        visible, every = np.any(masks, axis=(2, 3)), tuple(range(len(masks)))  # (T, O)
        # an object that never shows starts on frame 0
        source = ArrayMasks(masks, objects)
        found = tuple(ClipObject(item, int(visible[:, o].argmax()), every) for o, item in enumerate(source.objects))
        return cls(name, ArrayFrames(frames, stems), Truths(source, found, (frames.shape[1], frames.shape[2])))

    @property
    def stems(self) -> Sequence[str]:
        return self.frames.stems

    @property
    def num_frames(self) -> int:
        return len(self.frames.stems)

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.size

    @property
    def objects(self) -> Sequence[ClipObject]:
        return self.truths.objects

    def fingerprint(self) -> str:
        """Hash of all that could change a score: names, frames and masks."""
        return sha256_of_lines([self.name, *self.stems, self.frames.fingerprint(), self.truths.fingerprint()])


@dataclass(frozen=True)
class Truths:
    """Masks of a data set's clip, as its rule wants them: named objects, each with the frame it starts on."""

    masks: MaskSource
    objects: tuple[ClipObject, ...]
    size: tuple[int, int]
    together: bool = False
    """All masks of the data set are one object (DAVIS 2016)."""

    def read(self, t: int) -> Masks:
        result = np.zeros((len(self.objects), *self.size), dtype=bool)
        if t not in self.masks.annotated:
            return result
        found = self.masks.read(t)
        if self.together:
            for mask in found.values():
                result[0] |= dense(mask)
            return result
        for item, mask in zip(self.objects, result):
            if item.name in found:
                mask[:] = dense(found[item.name])
        return result

    def fingerprint(self) -> str:
        return self.masks.fingerprint()
