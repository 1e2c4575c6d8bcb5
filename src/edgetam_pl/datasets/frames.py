"""Frames of a video, by index and in order: picture files, a video file, or an array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.pictures import picture_size, read_picture
from edgetam_pl.io.video import VideoFile, count_frames, decoded_frames

Frame = NDArray[np.uint8]
"""(H, W, 3) RGB."""


class FrameSource(Protocol):
    """Where frames come from, by index. Frame t is the t-th, whatever its number in the original video."""

    @property
    def stems(self) -> Sequence[str]:
        """T names of the frames, as their files are called."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Native (H, W) in pixels."""
        ...

    def read(self, t: int) -> Frame:
        """Frame t, (H, W, 3) uint8 RGB."""
        ...

    def fingerprint(self) -> str:
        """Changes when the frames do."""
        ...


class OrderedFrames(FrameSource, Protocol):
    """Frames that can be walked through in order too, which is faster for a video file."""

    @property
    def numbers(self) -> Sequence[int]:
        """T numbers of the frames in the original video."""
        ...

    def each(self, wanted: Sequence[int]) -> Iterator[tuple[int, Path | Frame | BadSampleError]]:
        """(t, file or pixels) of these frames in order; nothing else is decoded. An error stands for what is missing."""
        ...


@dataclass(frozen=True)
class FileFrames:
    """Frames in picture files, by their numbers."""

    paths: Mapping[int, Path]

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self.paths)

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        return tuple(self.paths.values())

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(path.stem for path in self._files)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @cached_property
    def _size(self) -> tuple[int, int]:
        return picture_size(self._files[0])

    def read(self, t: int) -> Frame:
        return read_picture(self._files[t])

    def each(self, wanted: Sequence[int]) -> Iterator[tuple[int, Path]]:
        return ((t, self._files[t]) for t in wanted)

    def fingerprint(self) -> str:
        """Names and sizes of the files; their pixels are not read for it."""
        lines = "\n".join(f"{path.name} {path.stat().st_size}" for path in self._files)
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class VideoFrames:
    """Frames in a video file; the number of a frame is its place. Several readers never share a decoder."""

    path: Path

    @cached_property
    def _video(self) -> VideoFile:
        return VideoFile(self.path)

    @property
    def numbers(self) -> range:
        return range(1 << 30)  # every place is a number; how many there are is not known without reading the file

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(f"{t:05d}" for t in range(self.count))

    @cached_property
    def count(self) -> int:
        """T, without decoding."""
        return count_frames(self.path)

    @property
    def size(self) -> tuple[int, int]:
        return self._video.size

    def read(self, t: int) -> Frame:
        return self._video[t]

    def each(self, wanted: Sequence[int]) -> Iterator[tuple[int, Frame | BadSampleError]]:
        seen = 0
        try:
            for t, pixels in decoded_frames(self.path, wanted):
                seen += 1
                yield t, pixels
        except BadSampleError as error:
            yield -1, error
        else:
            if seen < len(wanted):
                yield -1, BadSampleError(Cause.VIDEO, self._too_short(seen, wanted))

    def _too_short(self, seen: int, wanted: Sequence[int]) -> str:
        return (
            f"{self.path} ends after {seen} annotated frames; its annotation has {len(wanted)}, the last is frame "
            f"{wanted[-1]}. Is the file complete, and are its annotations numbered by frame (SA-V: every=4)?"
        )

    def fingerprint(self) -> str:
        """Name and size of the file."""
        return hashlib.sha256(f"{self.path.name} {self.path.stat().st_size}".encode()).hexdigest()


@dataclass(frozen=True)
class ArrayFrames:
    """Frames (T, H, W, 3) in memory."""

    pixels: NDArray[np.uint8]
    names: Sequence[str] | None = None
    """T names of frames; None: 00000 ..."""

    @property
    def numbers(self) -> range:
        return range(len(self.pixels))

    @property
    def stems(self) -> Sequence[str]:
        return self.names or tuple(f"{t:05d}" for t in self.numbers)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def read(self, t: int) -> Frame:
        return self.pixels[t]

    def each(self, wanted: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        return ((t, self.pixels[t]) for t in wanted)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()
