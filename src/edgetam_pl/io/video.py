"""Video for people: frames out of a file, a folder or a stream, and written back.

Frames are read when asked for and a few are kept, so a long video costs no more memory than a short one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import files_in, numbered
from edgetam_pl.io.frames import EndOfVideo, Frames
from edgetam_pl.io.pictures import PICTURE_FILES, picture_size, read_picture

VIDEO_FILES = (
    *(".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"),
    *(".ogv", ".gif", ".h264", ".264", ".h265", ".hevc"),
)

FILLED_LOGIT = 0.1
"""Logit that a filled hole gets (SAM 2 release)."""


def open_video(source: str | Path | np.ndarray | Iterable[np.ndarray]) -> Frames:
    """Frames of a video file, of a folder of images, of an array (T, H, W, 3), of one image, or of an iterator.

    Raises:
        ValueError: nothing there that can be read as frames; the message says what was found.
    """
    if isinstance(source, np.ndarray):
        return Stills(source if source.ndim == 4 else source[None])
    if not isinstance(source, (str, Path)):
        return Stream(source)
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path)
    if not path.is_file():
        raise ValueError(f"There is no video at {path}; give a video file or a folder of images.")
    if path.suffix.lower() in PICTURE_FILES:
        return Stills(read_picture(path)[None])
    return VideoFile(path)


class Stills:
    """Frames already in memory: (T, H, W, 3) uint8 RGB."""

    def __init__(self, frames: np.ndarray) -> None:
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
            raise ValueError(f"Frames are {frames.shape} {frames.dtype}; expected (T, H, W, 3) uint8 RGB, T at least 1.")
        self._frames = frames

    @property
    def size(self) -> tuple[int, int]:
        return self._frames.shape[1], self._frames.shape[2]

    @property
    def count(self) -> int:
        return len(self._frames)

    def __getitem__(self, t: int) -> np.ndarray:
        return self._frames[t]


class ImageFolder:
    """A folder of images, in the order of the numbers in their names (1.jpg, 2.jpg, 10.jpg), as shards and evaluation have
    them.

    Raises:
        ValueError: no images, or two of one number, or a frame of another size than the first; they are named.
    """

    def __init__(self, path: Path) -> None:
        self._paths = list(numbered(files_in(path, PICTURE_FILES)).values())
        if not self._paths:
            raise ValueError(f"The folder {path} holds no images; expected files ending in {', '.join(PICTURE_FILES)}.")
        self.size = picture_size(self._paths[0])

    @property
    def count(self) -> int:
        return len(self._paths)

    def __getitem__(self, t: int) -> np.ndarray:
        picture = read_picture(self._paths[t])
        if picture.shape[:2] != self.size:
            raise BadSampleError(
                Cause.IMAGE,
                f"{self._paths[t]} is {picture.shape[0]} x {picture.shape[1]} pixels (height x width), the first frame "
                f"{self._paths[0].name} {self.size[0]} x {self.size[1]}; the frames of a video have one size.",
            )
        return picture


class Stream:
    """Frames that arrive one after the other, as from a camera: an iterator of (H, W, 3) uint8 RGB arrays.

    Only the last `kept` frames can be asked for again.
    """

    def __init__(self, frames: Iterable[np.ndarray], *, kept: int = 4) -> None:
        self._source: Iterator[np.ndarray] = iter(frames)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = kept
        self._next = 0
        try:
            self._size = self[0].shape[:2]
        except EndOfVideo as error:
            raise ValueError("The stream ended before its first frame.") from error

    @property
    def size(self) -> tuple[int, int]:
        return self._size[0], self._size[1]

    @property
    def count(self) -> None:
        return None

    def __getitem__(self, t: int) -> np.ndarray:
        if t < self._next and t not in self._kept:
            raise ValueError(f"Frame {t} of the stream is gone; frames {min(self._kept)} to {self._next - 1} are left.")
        while self._next <= t:
            try:
                frame = next(self._source)
            except StopIteration:
                raise EndOfVideo(f"the stream ended after {self._next} frames") from None
            self._kept[self._next] = np.array(frame)  # a camera may write the next frame into the same buffer
            self._next += 1
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return self._kept[t]


class VideoFile:
    """A video file, decoded by FFmpeg through PyAV, upright (phones store a rotation beside the pixels).

    Any frame can be asked for; in order is fastest. Frame t is the t-th that is shown, as `decoded_frames` counts.
    Where every packet has a time of its own, times are read first, without decoding, and going back is a seek to the key
    frame before; otherwise (raw streams, times that occur twice, streams that were cut before a key frame) frames are
    counted once, and going back starts at frame 0.
    """

    def __init__(self, path: Path, *, kept: int = 24) -> None:
        self.path = path
        self._capacity = kept
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._open()
        self.rate = Fraction(self._stream.average_rate or 25)
        self._times = _times(path)
        self._number = {time: t for t, time in enumerate(self._times or ())}
        self.count = len(self._times) if self._times else sum(1 for _ in _shown(path))
        if not self.count:
            raise _undecodable(path, "it holds no frames")
        self.size = self[0].shape[0], self[0].shape[1]

    def __getitem__(self, t: int) -> np.ndarray:
        if not 0 <= t < self.count:
            raise IndexError(f"frame {t} of {self.count}")
        if t in self._kept:
            return self._kept[t]
        if t < self._next:
            self._go_back(t)
        while True:
            number, frame = self._decoded(t)
            self._next = number + 1
            # going backwards, the frames just before t are wanted next
            if number > t - self._capacity:
                self._kept[number] = _pixels(frame)
                while len(self._kept) > self._capacity:
                    self._kept.popitem(last=False)
            if number == t:
                return self._kept[t]
            if number > t:
                raise _undecodable(self.path, f"frame {t} is missing")

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def _open(self) -> None:
        """Stand before the first frame."""
        if hasattr(self, "_container"):
            self._container.close()
        self._container, self._stream = _opened(self.path)
        self._stream.thread_type = "AUTO"
        self._decoder = self._container.decode(self._stream)
        self._next = 0

    def _go_back(self, t: int) -> None:
        """Stand at the key frame before t, or before the first frame where seeking does not lead there."""
        if self._times is not None and t > 0:
            try:
                self._container.seek(self._times[t], stream=self._stream)
                self._decoder = self._container.decode(self._stream)
                number, frame = self._decoded(t)
                if number <= t:
                    self._decoder = chain([frame], self._decoder)
                    return
            except (av.FFmpegError, BadSampleError):
                pass  # some containers cannot seek; the way from the start is slower and always there
        self._open()

    def _decoded(self, t: int) -> tuple[int, av.VideoFrame]:
        """The next frame and its number."""
        try:
            for frame in self._decoder:
                if self._times is None:
                    return self._next, frame
                if frame.pts in self._number:
                    return self._number[frame.pts], frame
        except av.FFmpegError as error:
            raise _undecodable(self.path, f"frame {t} cannot be read: {error}") from error
        raise _undecodable(self.path, f"it ends before frame {t} of {self.count}")


def decoded_frames(path: Path, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(t, pixels (H, W, 3) uint8 RGB) of the wanted frames of a video file, in order, each decoded once.

    Only frames that are handed out are converted to RGB. Memory holds one frame. Stops early where the file does.

    Raises:
        BadSampleError: the file cannot be opened or decoded.
    """
    left = set(wanted)
    if not left:
        return
    for number, frame in enumerate(_shown(path)):
        if number in left:
            yield number, _pixels(frame)
            left.remove(number)
            if not left:
                return


def count_frames(path: Path) -> int:
    """How many pictures a video file shows, by the times of its packets where they tell. Raises BadSampleError as
    `decoded_frames` does."""
    return len(_times(path) or ()) or sum(1 for _ in _shown(path))


def _times(path: Path) -> list[int] | None:
    """Times of all frames, in order, where every packet has one of its own and the first of them is shown; else None."""
    times = _packet_times(path)
    known = sorted({time for time in times if time is not None})
    if not known or len(known) < len(times):
        return None
    first = next(_shown(path), None)  # a stream that was cut begins with frames that nothing can be decoded from
    return known if first is not None and first.pts == known[0] else None


def _packet_times(path: Path) -> list[int | None]:
    """Times of the packets that are shown, as they lie in the file; None where one has no time."""
    container, stream = _opened(path)
    with container:
        try:
            # an edit list may hide the packets before the first picture that is shown; the last, empty one ends the stream
            return [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.FFmpegError as error:
            raise _undecodable(path, str(error)) from error


class VideoWriter:
    """Writes an H.264 mp4 that browsers play, under a temporary name until it is complete.

    Use as a context: leaving it normally moves the file to its name, leaving it by an error removes it.
    """

    def __init__(self, path: str | Path, *, size: tuple[int, int], rate: Fraction = Fraction(25)) -> None:
        self.path = Path(path)
        self._size = height, width = size
        if not self.path.parent.is_dir():
            raise ValueError(f"No video can be written to {self.path}: there is no folder {self.path.parent}.")
        self._atomic = atomic_path(self.path)
        self._container = av.open(str(self._atomic.__enter__()), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        # the pixel format halves colour in both directions, so sides must be even
        self._stream.width, self._stream.height, self._stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"

    def write(self, frame: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB."""
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"A frame is {frame.shape} {frame.dtype}; expected {(*self._size, 3)} uint8 RGB.")
        odd = ((0, self._stream.height - frame.shape[0]), (0, self._stream.width - frame.shape[1]), (0, 0))
        picture = av.VideoFrame.from_ndarray(np.pad(frame, odd, mode="edge"), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        self._atomic.__exit__(kind, error, trace)


def fill_holes(logits: Tensor, largest: int) -> Tensor:
    """Make background islands of up to `largest` pixels foreground (SAM 2 release: 8-connected, logit 0.1).

    Args:
        logits: (O, M, h, w).
    """
    filled = logits.clone()
    background = (logits <= 0).to("cpu", torch.uint8).numpy()
    for o in range(logits.shape[0]):
        for m in range(logits.shape[1]):
            _, labels, stats, _ = cv2.connectedComponentsWithStats(background[o, m], connectivity=8)
            small = stats[:, cv2.CC_STAT_AREA] <= largest
            small[0] = False  # the foreground
            hole = torch.from_numpy(np.take(small, labels)).to(logits.device)
            filled[o, m] = torch.where(hole, FILLED_LOGIT, filled[o, m])
    return filled


def _opened(path: Path) -> tuple[InputContainer, av.VideoStream]:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _undecodable(path, str(error)) from error
    if not container.streams.video:
        found = ", ".join(stream.type for stream in container.streams) or "nothing"
        container.close()
        raise _undecodable(path, f"it has no picture, only {found}")
    return container, container.streams.video[0]


def _shown(path: Path) -> Iterator[av.VideoFrame]:
    """All frames of a file in the order in which they are shown."""
    container, stream = _opened(path)
    with container:
        try:
            yield from container.decode(stream)
        except (av.FFmpegError, OSError) as error:
            raise _undecodable(path, str(error)) from error


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, k=turns)) if turns else pixels


def _undecodable(path: Path, reason: str) -> BadSampleError:
    return BadSampleError(
        Cause.VIDEO,
        f"{path} cannot be decoded as a video: {reason}. Give a video file (mp4, mov, webm, ...) or a folder of images; "
        "`ffmpeg -i FILE -c:v libx264 repaired.mp4` often repairs a damaged one.",
    )
