"""One frame of an interactive session: what is said is answered, what is not said is followed, and memories are made.

`Follower` is told what to do; `session.py` decides when. `observe` and `remember` of `step.py` do the work. Tracks go in and
come out; all that changes here are the image features kept for the next click.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.interactive.options import HoleFilling, OptionedTracker, SessionOptions, SessionTracker
from edgetam_pl.interactive.track_state import Answer, Track, Unwritten, joined, row
from edgetam_pl.interactive.user_prompts import UserPrompts
from edgetam_pl.io.frames import Frames
from edgetam_pl.tracking.step import PromptFn, observe, remember
from edgetam_pl.types import Decoded, FrameOutput, ImageFeatures, Prompts


class Follower:
    """A model in front of a video.

    Args:
        tracker: a model with its four verbs, `normalise` and `image_size`, in evaluation mode.
        frames: the video.
        options: habits that differ from the plain step.
        device: where the model is.
        fill_holes: fills holes when `options.fill_holes_area` asks for it.
    """

    def __init__(
        self,
        tracker: SessionTracker,
        frames: Frames,
        *,
        options: SessionOptions,
        device: torch.device,
        fill_holes: HoleFilling | None,
    ) -> None:
        self.side = tracker.image_size
        self._plain = tracker
        self._tracker = OptionedTracker(tracker, options)
        self._frames = frames
        self._options = options
        self._device = device
        self._fill_holes = fill_holes
        self._kept: OrderedDict[int, ImageFeatures] = OrderedDict()

    def answered(self, track: Track, t: int, said: UserPrompts) -> Track:
        """The track after a person said this about frame t."""
        before = track.answers.get(t)
        corrects = before is not None and before.tracked
        previous = None
        if before is not None and said.mask is None:
            limit = self._options.clamp_previous or math.inf
            previous = before.logits.clamp(-limit, limit)
        prompts = said.as_prompts(self._frames.size, self.side, previous=previous, device=self._device)
        # a mask is the answer, whatever is remembered; points on a frame never seen start afresh
        ask = _after_one_answer(prompts) if corrects and said.mask is None else _at_once(prompts)
        backwards = before is not None and before.backwards
        output = observe(self._tracker, track.facing(backwards), self.features(t), t, ask)
        shown = self._filled(output.final)
        answer = Answer(shown.best.float(), shown.presence.float(), _best_iou(shown), corrects, backwards)
        was_prompted = any(number == t for number, _ in track.bank.prompted)
        prompted = not corrects or was_prompted or self._options.corrections_are_prompted
        return replace(
            track,
            said={**track.said, t: said},
            unwritten={**track.unwritten, t: Unwritten(shown, prompted)},
            answers={**track.answers, t: answer},
        )

    def written(self, track: Track) -> Track:
        """The track with the memories of what was said since the last time."""
        tracker = replace(self._tracker, by_hand=True)
        bank, corrected = track.bank, dict(track.corrected)
        for t, (decoded, prompted) in sorted(track.unwritten.items()):
            final = decoded if prompted else decoded._replace(prompts=None)  # remembered as a frame that was only tracked
            features = self.features(t)
            output = FrameOutput((final,), features.f16, recalled=False)
            bank = remember(tracker, bank, features, t, output)
            if not prompted:
                corrected[t] = dict(bank.recent)[t]
        return replace(track, bank=bank, corrected=corrected, unwritten={})

    def followed(self, tracks: Sequence[Track], t: int, *, backwards: bool) -> list[Track]:
        """The tracks after frame t, on which nobody said anything. They remember the same frames."""
        features = self.features(t)
        bank = joined([track.facing(backwards) for track in tracks])
        output = observe(self._tracker, bank, features, t, _silence)
        memory = dict(remember(self._tracker, bank, features, t, output).recent)[t]
        shown = self._filled(output.final)
        best, presence, iou = shown.best.float(), shown.presence.float(), _best_iou(shown)
        done = []
        for i, track in enumerate(tracks):
            own = memory if len(tracks) == 1 else row(memory, i)
            answer = Answer(best[i : i + 1], presence[i : i + 1], iou[i : i + 1], True, backwards)
            bank = track.facing(backwards).write(t, own, prompted=False)
            done.append(replace(track, bank=bank, answers={**track.answers, t: answer}))
        return done

    def features(self, t: int) -> ImageFeatures:
        """Image features of frame t, batch 1; those of the last few frames are kept.

        Raises:
            ValueError: the frame has another size than the first one, or cannot be read.
        """
        if t in self._kept:
            self._kept.move_to_end(t)
            return self._kept[t]
        layout = torch.channels_last if self._options.channels_last else torch.contiguous_format
        images = self._resized(t).contiguous(memory_format=layout).to(self._device)
        self._kept[t] = self._tracker.encode(self._plain.normalise(images).contiguous(memory_format=layout))
        while len(self._kept) > self._options.cached_frames:
            self._kept.popitem(last=False)
        return self._kept[t]

    def _resized(self, t: int) -> Tensor:
        """Frame t (1, 3, S, S) uint8."""
        frame = self._frames[t]
        height, width = self._frames.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"Frame {t} is {frame.shape} {frame.dtype}; expected {(height, width, 3)} uint8 RGB like the first one. "
                "All frames of a video must have one size."
            )
        image = torch.from_numpy(np.array(frame)).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W)
        return F.interpolate(image, (self.side, self.side), mode=self._options.resize, antialias=True, align_corners=False)

    def _filled(self, decoded: Decoded) -> Decoded:
        """The answer as it is shown: without small holes."""
        if self._options.fill_holes_area == 0 or self._fill_holes is None:
            return decoded
        return decoded._replace(logits=self._fill_holes(decoded.logits, self._options.fill_holes_area))


def _silence(_: Decoded | None) -> Prompts | None:
    return None


def _at_once(prompts: Prompts) -> PromptFn:
    """A person who speaks before seeing an answer, then is content."""
    return lambda answer: prompts if answer is None else None


def _after_one_answer(prompts: Prompts) -> PromptFn:
    """A person who corrects what was tracked, once."""
    remaining = [prompts]
    return lambda answer: None if answer is None or not remaining else remaining.pop()


def _best_iou(decoded: Decoded) -> Tensor:
    """(O, 1) predicted IoU of the chosen candidate."""
    return decoded.iou.float().amax(dim=1, keepdim=True)
