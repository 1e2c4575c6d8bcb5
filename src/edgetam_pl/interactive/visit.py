"""A visit to the app: one video, what was prompted on it, and what can be saved. There is no web in here.

Several threads call it: frames can be looked at while the video is tracked. What changes the session waits for its turn, and
is refused while the video is tracked.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.interactive.user_prompts import UserPrompts
from edgetam_pl.io import rle
from edgetam_pl.io.frames import FrameMasks, Frames
from edgetam_pl.io.label_png import VOID, write_labels
from edgetam_pl.io.overlay import colour_of, paint_labels
from edgetam_pl.io.pictures import encode_jpeg
from edgetam_pl.io.video import VideoFile, VideoWriter, fill_holes, open_video
from edgetam_pl.tracking.step import VideoModel
from edgetam_pl.types import FOREGROUND

WHITE = (255, 255, 255)
"""The rim of points and boxes."""


class Visit:
    """One visitor and one video.

    Args:
        tracker: the model.
        path: video file, picture, or folder of pictures.
        options: habits of the session. Every answer is kept, so that a visitor may go back and correct.
        device: where the model is.
        model_turn: held while the model computes, where several visits share one.

    Raises:
        ValueError: the file cannot be decoded.
    """

    def __init__(
        self,
        tracker: VideoModel,
        path: Path,
        *,
        options: SessionOptions | None = None,
        device: str = "cpu",
        model_turn: threading.Lock | None = None,
    ) -> None:
        self.name = path.stem or path.name
        self._video = open_video(path)
        self.frames = _OneReader(self._video)
        self.session = Session(
            tracker,
            self.frames,
            options=options or SessionOptions(keep_all=True, channels_last=True),
            device=device,
            fill_holes=fill_holes,
        )
        self._model_turn = model_turn or threading.Lock()
        self._turn = threading.Lock()  # of what changes the session
        self._stop = threading.Event()
        self._tracking = False

    @property
    def count(self) -> int:
        """Number of frames; a video that was opened from a file has one."""
        return self.frames.count or 0

    def state(self) -> dict[str, Any]:
        """What a page shows of the visit, as plain values."""
        height, width = self.frames.size
        return {
            "name": self.name,
            "frames": self.count,
            "width": width,
            "height": height,
            "objects": [{"number": number, "colour": colour_of(number - 1)} for number in sorted(self.session.objects)],
            "tracking": self._tracking,
        }

    # ------------------------------------------------------------------ what a visitor does

    def prompt(self, number: int, t: int, prompts: UserPrompts) -> None:
        """Points or a box, in pixels of the video, for an object on frame t; a new number is a new object.

        Raises:
            ValueError: the prompt cannot be meant, or the video is being tracked.
        """
        if number >= VOID:
            raise ValueError(f"Object {number} is one too many: a label map has numbers up to {VOID - 1}.")
        with self._changing():
            self.session.prompt(number, t, points=prompts.points, labels=prompts.labels, box=prompts.box)

    def remove(self, number: int) -> None:
        """Forget an object. Raises ValueError where there is none, or while the video is tracked."""
        with self._changing():
            self.session.remove(number)

    def undo(self) -> None:
        """Take back the last prompt, removal or tracking. Raises ValueError as `remove` does."""
        with self._changing():
            self.session.undo()

    def reset(self) -> None:
        """Forget all objects. Raises ValueError while the video is tracked."""
        with self._changing():
            self.session.reset()

    def track(self, *, backwards: bool = False) -> Iterator[int]:
        """Number of each frame when it is tracked, until the end, `stop`, or the caller's end of interest.

        Raises:
            ValueError: nothing to track, or the video is being tracked.
        """
        with self._changing():
            answers = self.session.propagate(backwards=backwards)
        return self._tracked(answers)

    def stop(self) -> None:
        """End the tracking after the frame that is being tracked; what was found stays."""
        self._stop.set()

    def _tracked(self, answers: Iterator[FrameMasks]) -> Iterator[int]:
        with self._changing():
            self._tracking = True
            self._stop.clear()
            try:
                while not self._stop.is_set():
                    with self._model_turn:
                        out = next(answers, None)
                    if out is None:
                        return
                    yield out.frame
            finally:
                self._tracking = False

    @contextmanager
    def _changing(self) -> Iterator[None]:
        if self._tracking:
            raise ValueError("The video is being tracked; press Stop first.")
        with self._turn:
            yield

    # ------------------------------------------------------------------ what a visitor sees

    def picture(self, t: int) -> bytes:
        """Frame t as a JPEG with what is known drawn in: masks, points on an object as discs and off it as crosses, boxes.

        Raises:
            ValueError: no such frame.
        """
        drawn = self._painted(t)
        radius = max(4, drawn.shape[1] // 120)
        for number, prompts in self.session.prompts(t).items():
            colour = tuple(bytes.fromhex(colour_of(number - 1)[1:]))
            if prompts.box is not None:
                first, second = (tuple(round(value) for value in corner) for corner in (prompts.box[:2], prompts.box[2:]))
                thin = max(2, radius // 3)
                for shade, thick in ((WHITE, thin + 2), (colour, thin)):
                    cv2.rectangle(drawn, first, second, shade, thick)
            for (x, y), label in zip(prompts.points, prompts.labels):
                draw = _disc if label == FOREGROUND else _cross
                draw(drawn, (round(x), round(y)), radius, colour)
        return encode_jpeg(drawn)

    def _painted(self, t: int) -> NDArray[np.uint8]:
        """Frame t (H, W, 3) with the masks that are known."""
        labels = self.session.masks(t).label_map().cpu().numpy().astype(np.uint8)
        return paint_labels(self.frames[t], labels)

    # ------------------------------------------------------------------ what a visitor saves

    def film(self, folder: Path) -> Path:
        """The whole video with the masks that are known drawn in: NAME_tracked.mp4."""
        path = folder / f"{self.name}_tracked.mp4"
        rate = self._video.rate if isinstance(self._video, VideoFile) else Fraction(25)
        with VideoWriter(path, size=self.frames.size, rate=rate) as writer:
            for t in range(self.count):
                writer.write(self._painted(t))
        return path

    def masks(self, folder: Path) -> Path:
        """NAME_masks.zip: for each frame that has an answer a label map 00000.png ..., as `edgetam shards` reads them.

        Raises:
            ValueError: nothing is known of any frame yet.
        """
        path = folder / f"{self.name}_masks.zip"
        with zipfile.ZipFile(path, "w") as archive:  # PNGs are compressed already
            for t in self._answered():
                draft = folder / f"{t:05d}.png"
                write_labels(draft, self.session.masks(t).label_map().cpu().numpy().astype(np.uint8))
                archive.write(draft, draft.name)
                draft.unlink()
        return path

    def coco(self) -> dict[str, Any]:
        """The masks as COCO's instances: an image a frame that has an answer, run lengths, `track_id` the object.

        Raises:
            ValueError: nothing is known of any frame yet.
        """
        height, width = self.frames.size
        images, annotations = [], []
        for t in self._answered():
            images.append({"id": t + 1, "file_name": f"{t:05d}.jpg", "width": width, "height": height, "frame": t})
            answer = self.session.masks(t)
            for number, mask in zip(answer.objects, answer.masks.cpu().numpy()):
                if mask.any():
                    annotations.append({"id": len(annotations) + 1, "image_id": t + 1, **_instance(number, mask)})
        categories = [{"id": number, "name": f"object {number}"} for number in sorted(self.session.objects)]
        return {"info": {"video": self.name}, "images": images, "annotations": annotations, "categories": categories}

    def close(self) -> None:
        """Stop, and let go of the file."""
        self.stop()
        if isinstance(self._video, VideoFile):
            self._video.close()

    def _answered(self) -> list[int]:
        frames = self.session.answered
        if not frames:
            raise ValueError("There are no masks yet: click on an object, then press Track.")
        return frames


class _OneReader:
    """Frames that several threads ask for: a decoder serves one at a time."""

    def __init__(self, frames: Frames) -> None:
        self._frames, self._lock = frames, threading.Lock()
        self.size, self.count = frames.size, frames.count

    def __getitem__(self, t: int) -> NDArray[np.uint8]:
        with self._lock:
            return self._frames[t]


def _instance(number: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """An annotation of COCO of a mask (H, W) that is not empty, without its ids."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y, right, bottom = (int(value) for value in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return {
        "category_id": number,
        "track_id": number,
        "segmentation": {"size": list(mask.shape), "counts": rle.encode(mask)},
        "area": int(mask.sum()),
        "bbox": [x, y, right - x, bottom - y],
        "iscrowd": 0,
    }


def _disc(frame: NDArray[np.uint8], centre: tuple[int, int], radius: int, colour: tuple[int, ...]) -> None:
    cv2.circle(frame, centre, radius + 2, WHITE, -1)
    cv2.circle(frame, centre, radius, colour, -1)


def _cross(frame: NDArray[np.uint8], centre: tuple[int, int], radius: int, colour: tuple[int, ...]) -> None:
    x, y = centre
    for shade, thick in ((WHITE, radius), (colour, max(radius // 2, 1))):
        for rise in (radius, -radius):
            cv2.line(frame, (x - radius, y - rise), (x + radius, y + rise), shade, thick)
