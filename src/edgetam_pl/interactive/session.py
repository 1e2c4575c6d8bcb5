"""An interactive session: say what to follow, anywhere in a video, correct it where it goes wrong (Sec. 3.1; SAM 2 Sec. 3).

Every object has a bank of its own, so objects never disturb one another; image features are computed once a frame and
shared. `TrackUpdates` does the work on a frame; this file decides what is done when. What is kept is immutable, so a refused
request leaves everything as it was, and undoing is putting back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from edgetam_pl.interactive.options import HoleFilling, SessionOptions
from edgetam_pl.interactive.track_state import ObjectMask, ObjectTrack, TrackUpdates
from edgetam_pl.interactive.user_prompts import UserPrompts, parse_prompts
from edgetam_pl.io.frames import EndOfVideo, FrameMasks, Frames
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.frame_tracker import FrameTracker, without_overlap
from edgetam_pl.tracking.step import VideoModel


class Session:
    """Follow objects through one video.

    Args:
        model: in evaluation mode.
        frames: the video.
        options: habits that differ from evaluation.
        policy: which memories are read; None: as in evaluation, without pointers of future prompted frames (SAM 2).
        device: where the model is.
        fill_holes: fills holes when `options.fill_holes_area` asks for it.

    Nothing is changed by a call that raises ValueError.

    >>> from edgetam_pl.commands.track import load_tracker
    >>> from edgetam_pl.io.video import open_video
    >>> session = Session(load_tracker("toy", "random"), open_video(np.zeros((3, 48, 64, 3), np.uint8)))
    >>> session.prompt(1, 0, points=[(20, 30)]).masks.shape
    torch.Size([1, 48, 64])
    >>> [out.frame for out in session.propagate()]
    [0, 1, 2]
    """

    def __init__(
        self,
        model: VideoModel,
        frames: Frames,
        *,
        options: SessionOptions | None = None,
        policy: RecallPolicy | None = None,
        device: torch.device | str = "cpu",
        fill_holes: HoleFilling | None = None,
    ) -> None:
        self.options = options or SessionOptions()
        if self.options.fill_holes_area > 0 and fill_holes is None:
            raise ValueError("fill_holes_area needs a function that fills: give fill_holes=edgetam_pl.io.video.fill_holes.")
        self.frames = frames
        self._tracker = FrameTracker(
            model, frames.__getitem__, frames.size, frames.count, device=torch.device(device), options=self.options
        )
        self._updates = TrackUpdates(self._tracker, self.options, fill_holes)
        self._policy = policy or RecallPolicy.inference(frames.count)
        self._tracks: Mapping[int, ObjectTrack] = {}
        self._history: deque[Mapping[int, ObjectTrack]] = deque(maxlen=self.options.undo_depth)

    # ------------------------------------------------------------------ what a user can do

    @property
    def objects(self) -> tuple[int, ...]:
        """The objects being followed, in the order in which they were introduced."""
        return tuple(self._tracks)

    @property
    def answered(self) -> list[int]:
        """The frames for which an object has an answer, in order."""
        return sorted({t for track in self._tracks.values() for t in track.answers})

    def prompt(
        self,
        object_id: int,
        t: int,
        *,
        points: Sequence[Sequence[float]] = (),
        labels: Sequence[int] | None = None,
        box: Sequence[float] | None = None,
        mask: np.ndarray | Tensor | None = None,
        afresh: bool = False,
    ) -> FrameMasks:
        """Prompt an object on frame t, and get the answer at once. A new number is a new object.

        Args:
            points: (x, y) in pixels of the video; they add to earlier ones on this frame unless `afresh`.
            labels: 1 for points on the object, 0 for points off it; None: all on it.
            box: (x0, y0, x1, y1) in pixels of the video.
            mask: (H, W), the answer itself; it replaces points and box, and they replace it.

        Raises:
            ValueError: a frame, point, box, mask or label that cannot be meant.
        """
        self._check_object_number(object_id)
        self._check_frame(t)
        new = parse_prompts(points, labels, box, mask, size=self.frames.size)
        track = self._tracks.get(object_id) or ObjectTrack(MemoryBank(policy=self._policy, keep_all=self.options.keep_all))
        given = new if afresh else track.prompts.get(t, UserPrompts()).then(new)
        try:
            with torch.inference_mode():
                track = self._updates.prompted(track, t, given)
        except EndOfVideo as error:
            raise ValueError(f"There is no frame {t}: {error}") from error
        self._change({**self._tracks, object_id: track})
        return self.masks(t)

    def propagate(
        self,
        start: int | None = None,
        *,
        backwards: bool = False,
        max_frames: int | None = None,
        objects: Collection[int] | None = None,
    ) -> Iterator[FrameMasks]:
        """Follow the objects, frame by frame, and yield the answers of those followed. Prompts may be added between frames.

        Args:
            start: first frame visited. None: each object from the first frame on which it was prompted. With a number, all
                objects from there, also those whose prompts lie ahead.
            max_frames: stop after this many frames.
            objects: only these; None: all, also those introduced on the way.

        Raises:
            ValueError: nothing to follow, no such object, or no such frame.
        """
        if not self._tracks:
            raise ValueError("There is nothing to follow yet; prompt an object first, with points, a box or a mask.")
        for number in objects or ():
            self._existing(number)
        if objects is not None and not objects:
            raise ValueError("objects is empty; name at least one, or None for all.")
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}; it must be at least 1.")
        if start is not None:
            self._check_frame(start)
        return self._propagate(start, backwards, max_frames, None if objects is None else frozenset(objects))

    def masks(self, t: int) -> FrameMasks:
        """The answers kept for frame t, for every object that has one there."""
        self._check_frame(t)
        answers = {number: track.answers[t] for number, track in self._tracks.items() if t in track.answers}
        return self._shown(t, answers)

    def prompts(self, t: int) -> dict[int, UserPrompts]:
        """The prompts on frame t, by object."""
        self._check_frame(t)
        return {number: track.prompts[t] for number, track in self._tracks.items() if t in track.prompts}

    def candidates(self, object_id: int, t: int) -> FrameMasks:
        """All masks that the last prompt on frame t could mean (three after one click, else one), likeliest IoU first.

        Raises:
            ValueError: no such object, or the frame was not prompted since the last propagation.
        """
        pending = self._existing(object_id).pending.get(t)
        if pending is None:
            raise ValueError(f"Object {object_id} was not prompted on frame {t} since the last propagation; do so again.")
        decoded = pending.decoded
        order = decoded.iou[0].argsort(descending=True)
        logits = self._tracker.enlarged(decoded.logits[0, order].unsqueeze(1))
        presence = decoded.presence[0].expand(len(order))
        return FrameMasks(t, (object_id,) * len(order), logits, presence, decoded.iou[0, order])

    def remove(self, object_id: int) -> None:
        """Forget an object; the others stay as they are."""
        self._existing(object_id)
        self._change({number: track for number, track in self._tracks.items() if number != object_id})

    def reset(self) -> None:
        """Forget all objects. The video stays open, and `undo` brings them back."""
        self._change({})

    def undo(self) -> None:
        """Take back the last prompt, removal, reset or propagation.

        Raises:
            ValueError: nothing is left to undo.
        """
        if not self._history:
            raise ValueError("There is nothing to undo.")
        self._tracks = self._history.pop()

    def bank(self, object_id: int) -> MemoryBank:
        """The memories of one object."""
        return self._existing(object_id).bank

    def held_bytes(self) -> int:
        """Bytes of all tensors that the objects hold: memories and answers, each counted once."""
        tensors = [
            tensor
            for track in self._tracks.values()
            for entry in (*(m for _, m in (*track.bank.prompted, *track.bank.recent)), *track.answers.values())
            for tensor in entry
            if isinstance(tensor, Tensor)
        ]
        return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())

    # ------------------------------------------------------------------ propagation

    def _propagate(
        self, start: int | None, backwards: bool, max_frames: int | None, chosen: frozenset[int] | None
    ) -> Iterator[FrameMasks]:
        firsts = [_first_frame(track, start) for n, track in self._tracks.items() if chosen is None or n in chosen]
        t, visited, sign, before = (max(firsts) if backwards else min(firsts)), 0, -1 if backwards else 1, self._tracks
        while t >= 0 and (self.frames.count is None or t < self.frames.count) and visited != max_frames:
            try:
                with torch.inference_mode():
                    tracked = self._tracked(t, start, backwards, chosen)
            except EndOfVideo:
                return
            if visited == 0:
                self._history.append(before)
            self._tracks = {**self._tracks, **tracked}
            yield self._shown(t, {number: track.answers[t] for number, track in self._tracks.items() if number in tracked})
            t, visited = t + sign, visited + 1

    def _tracked(self, t: int, start: int | None, backwards: bool, chosen: frozenset[int] | None) -> dict[int, ObjectTrack]:
        """The tracks of the objects that are propagated, after frame t."""
        done: dict[int, ObjectTrack] = {}
        unprompted: dict[int, ObjectTrack] = {}
        # prompted frames have their answer; the others are tracked
        for number, track in self._tracks.items():
            begun = (t - _first_frame(track, start)) * (-1 if backwards else 1) >= 0
            if (chosen is not None and number not in chosen) or not begun:
                continue
            track = self._updates.remembered(track)
            if t in track.prompts:  # the answer to the prompt stands
                done[number] = track.passed(t, backwards=backwards)
            else:
                unprompted[number] = track
        for numbers in self._together(unprompted):
            tracks = self._updates.tracked([unprompted[number] for number in numbers], t, backwards=backwards)
            done.update(zip(numbers, tracks))
        return done if self.options.keep_all else {number: track.within_reach(t) for number, track in done.items()}

    def _together(self, tracks: Mapping[int, ObjectTrack]) -> list[tuple[int, ...]]:
        """Which objects go through the network together: one each, or all that remember the same frames."""
        if not self.options.batch_objects:
            return [(number,) for number in tracks]
        history = {number: track.remembered_frames for number, track in tracks.items()}
        return [tuple(group) for _, group in groupby(sorted(tracks, key=history.__getitem__), key=history.__getitem__)]

    # ------------------------------------------------------------------ masks out

    def _shown(self, t: int, answers: Mapping[int, ObjectMask]) -> FrameMasks:
        """Answers at the video's own size."""
        if not answers:
            height, width = self.frames.size
            return FrameMasks(t, (), torch.empty(0, height, width), torch.empty(0), torch.empty(0))
        logits = self._tracker.enlarged(torch.cat([answer.logits for answer in answers.values()]))
        if self.options.non_overlap:
            logits = without_overlap(logits)
        presence = torch.cat([answer.presence[:, 0] for answer in answers.values()])
        return FrameMasks(t, tuple(answers), logits, presence, torch.cat([answer.iou[:, 0] for answer in answers.values()]))

    # ------------------------------------------------------------------ what is not accepted

    def _change(self, tracks: Mapping[int, ObjectTrack]) -> None:
        self._history.append(self._tracks)
        self._tracks = tracks

    def _existing(self, object_id: int) -> ObjectTrack:
        if object_id not in self._tracks:
            known = ", ".join(map(str, self._tracks)) or "none"
            raise ValueError(f"There is no object {object_id}; objects so far: {known}.")
        return self._tracks[object_id]

    @staticmethod
    def _check_object_number(object_id: int) -> None:
        if isinstance(object_id, bool) or not isinstance(object_id, int) or object_id < 1:
            raise ValueError(f"An object's number is {object_id!r}; use a whole number from 1 (0 is the background).")

    def _check_frame(self, t: int) -> None:
        count = self.frames.count
        if isinstance(t, bool) or not isinstance(t, int) or t < 0 or (count is not None and t >= count):
            last = "" if count is None else f" to {count - 1}"
            raise ValueError(f"There is no frame {t!r}; frames are numbered from 0{last}.")


def _first_frame(track: ObjectTrack, start: int | None) -> int:
    """Where the propagation of this object begins."""
    return min(track.prompts) if start is None else start
