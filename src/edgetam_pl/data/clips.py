"""Which frames and which objects of a video become a training clip (after SAM 2's sampler)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from edgetam_pl.data import sample as schema
from edgetam_pl.data.index import stretches
from edgetam_pl.data.sample import Header
from edgetam_pl.io.errors import BadSampleError, Cause


@dataclass(frozen=True)
class ClipSelection:
    """Positions of the chosen frames under their header, in playing order, and of the chosen objects."""

    frames: tuple[int, ...]
    objects: tuple[int, ...]

    def label(self, header: Header) -> str:
        """A name from which people can find the clip again: KEY@first frame number, < when played backwards."""
        arrow = "<" if self.frames[:1] > self.frames[-1:] else ""
        return f"{header.key}@{header.frames[self.frames[0]]}{arrow}"


@dataclass(frozen=True)
class Video:
    """The stored windows of one video, which may overlap, as one row of frames."""

    name: str
    windows: Sequence[tuple[int, int]]
    """(position of the first frame in the video, frames), rising."""
    header: Callable[[int], Header]
    """Of window number i; asked only for windows that matter."""
    hidden: Sequence[tuple[int, ...] | None] = ()
    """Frames of each window on which no object is seen, where that is known without its header."""
    wanted: Callable[[list[tuple[int, int]]], None] | None = None
    """Told which frames, as (window, frame in it), were chosen, before their headers are asked for."""

    def shows(self, window: int, frame: int) -> bool:
        """Is an object seen there?"""
        known = self.hidden[window] if self.hidden else None
        return bool(self.header(window).visible(frame)) if known is None else frame not in known

    def at(self, position: int) -> tuple[int, int]:
        """(window, frame in it) of a position: the last window that has it, since it reaches furthest."""
        number = bisect_right(self.windows, position, key=lambda window: window[0]) - 1
        return number, position - self.windows[number][0]

    def places(self, start: int, num_frames: int) -> list[tuple[int, int]]:
        """(window, frame in it) of the frames from `start` on. The fewest windows are used; of several that have all,
        the first one: there they lie nearest to the header, which ends a window, and both are read at once.

        Raises:
            BadSampleError: the windows do not cover them.
        """
        for window, (begin, frames) in enumerate(self.windows):
            if begin <= start and start + num_frames <= begin + frames:
                return [(window, start - begin + t) for t in range(num_frames)]
        # frames from the window that has the first one, then from the one that has the first frame after it
        places: list[tuple[int, int]] = []
        while len(places) < num_frames:
            window, frame = self.at(start + len(places))
            if not 0 <= frame < self.windows[window][1]:
                raise BadSampleError(Cause.TAR, f"the index says impossible things of the windows of {self.name}")
            last = min(self.windows[window][1], frame + num_frames - len(places))
            places += [(window, t) for t in range(frame, last)]
        return places

    def cut(self, start: int, num_frames: int, step: int = 1) -> tuple[Header, list[tuple[int, int]]]:
        """A header of these frames alone, each `step` after the one before, and (window, frame in it) of each.

        Raises:
            BadSampleError: the windows do not fit together.
        """
        places = self.places(start, span(num_frames, step))[::step]
        if self.wanted is not None:
            self.wanted(places)
        used = [(self.header(window), [t for _, t in run]) for window, run in groupby(places, key=lambda place: place[0])]
        first = used[0][0]
        if any(header.size != first.size for header, _ in used):
            raise BadSampleError(Cause.IMAGE_SIZE, f"{first.key}: frames of several sizes in one clip")
        # objects by their names: a later window may have others
        names = tuple(dict.fromkeys(name for header, _ in used for name in header.objects))
        tracks = [dict(zip(header.objects, header.masks)) for header, _ in used]
        masks = tuple(
            tuple(track[name][t] if name in track else None for track, (_, frames) in zip(tracks, used) for t in frames)
            for name in names
        )
        numbers = tuple(header.frames[t] for header, frames in used for t in frames)
        header = replace(first, frames=numbers, objects=names, masks=masks)
        if len(used) > 1:
            schema.check(header)
        return header, places


def span(num_frames: int, step: int) -> int:
    """Frames from the first to the last of a clip whose frames are `step` apart."""
    return (num_frames - 1) * step + 1


@dataclass(frozen=True)
class ChosenClip:
    """What a clip is made of."""

    header: Header
    """Of its frames alone, in the video's order."""
    selection: ClipSelection
    places: list[tuple[int, int]]
    """(window, frame in it) of each frame of the header."""


def choose(
    video: Video,
    rng: np.random.Generator,
    *,
    num_frames: int,
    max_objects: int,
    reverse: float,
    train: bool,
    max_step: int = 1,
) -> ChosenClip:
    """Frames an equal step apart whose first one shows something, and at most `max_objects` of the objects seen there.

    Training draws the step, up to `max_step` and as far as the video is long enough, and then among all such starts of the
    video, each as likely as any other, played backwards with probability `reverse`; otherwise the first stretch of
    consecutive frames and the first objects are taken. Objects that appear later are never chosen.

    Raises:
        BadSampleError: TOO_SHORT, or NO_OBJECT when no stretch begins with an object.
    """
    longest = max(end - begin for begin, end in stretches(video.windows))
    step = 1
    if train and max_step > 1 and 1 < num_frames <= longest:
        step = int(rng.integers(1, min(max_step, (longest - 1) // (num_frames - 1)) + 1))
    length = span(num_frames, step)
    starts = [s for begin, end in stretches(video.windows) for s in range(begin, end - length + 1)]
    if not starts:
        raise BadSampleError(Cause.TOO_SHORT, f"{video.name} has {longest} frames; {num_frames} are needed")
    backwards = train and num_frames > 1 and rng.random() < reverse
    # SAM 2 draws again where nothing is seen; here no start is tried twice
    for number in rng.permutation(len(starts)) if train else range(len(starts)):
        places = video.places(starts[number], length)
        if video.shows(*places[-1 if backwards else 0]):
            break
    else:
        raise BadSampleError(Cause.NO_OBJECT, f"{video.name} shows no object where a clip of {num_frames} frames may begin")
    header, places = video.cut(starts[number], num_frames, step)
    frames = tuple(range(num_frames))[:: -1 if backwards else 1]
    seen = header.visible(frames[0])
    if len(seen) > max_objects:
        seen = sorted(rng.choice(seen, max_objects, replace=False).tolist()) if train else seen[:max_objects]
    return ChosenClip(header, ClipSelection(frames, tuple(seen)), places)
