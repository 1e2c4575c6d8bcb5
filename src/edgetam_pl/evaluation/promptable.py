"""Protocols with a user in the loop: promptable video segmentation online and offline (SAM 2 Sec. 6.1, App. E; Fig. 5 of
EdgeTAM), and Segment Anything on images (Table 1).

The simulated user clicks in the middle of the largest error. Every object is tracked on its own. One run of a protocol
answers for all numbers of rounds at once: `Answer.round` is the number of prompted frames, or of clicks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from edgetam_pl.evaluation.clips import Clip, Masks
from edgetam_pl.evaluation.protocols import Answer, clicking, decided
from edgetam_pl.metrics.jf import region_similarity
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.frame_tracker import FrameTracker
from edgetam_pl.tracking.prompters import no_prompt
from edgetam_pl.tracking.step import PromptFn, observe
from edgetam_pl.types import Decoded, Prompts

OBJECTS_AT_ONCE = 16
"""Masks of an image that are decoded together."""

ObjectRun = Iterator[list[Answer]]
"""One object, from its first frame on: the answers of each frame in turn."""

TruthFn = Callable[[int], Masks]
"""Masks (O, H, W) of frame t."""


@dataclass(frozen=True)
class Interaction:
    """How the user works (SAM 2 App. E)."""

    clicks: int = 3
    """N_click, on each prompted frame."""
    rounds: int = 8
    """N_frame at most; scores are reported for 1 ... this."""
    threshold: float = 0.75
    """Online: a frame whose IoU is below this is corrected."""
    corrected_are_prompted: bool = True
    """A corrected frame becomes a prompted one, never forgotten, as in training; False: SAM 2's released predictor."""

    def seconds(self, *, num_frames: int, rounds: int, online: bool) -> float:
        """Estimated time of annotating one object: looking through the video (30 s for 300 frames), finding the object
        (1 s), clicking (1.5 s a click). Offline the whole video is looked through in each round."""
        examine = 30 * num_frames / 300
        per_frame = 1 + 1.5 * self.clicks
        return examine + per_frame * rounds if online else (examine + per_frame) * rounds


def pvs_online(tracker: FrameTracker, clip: Clip, *, how: Interaction) -> Iterator[Answer]:
    """One pass. The user prompts the first frame, watches, and corrects the first frame that is worse than the threshold;
    what came before stays as it is. An answer of round n is what a user gets who corrects n frames at most."""
    truth = lru_cache(maxsize=1)(clip.truths.read)  # all objects share what is read
    yield from _frame_by_frame(clip, [_online(tracker, clip, i, truth, how) for i in range(len(clip.objects))])


def pvs_offline(tracker: FrameTracker, clip: Clip, *, how: Interaction) -> Iterator[Answer]:
    """Several passes. The user prompts the first frame and lets the whole video be tracked; then corrects the frame with
    the lowest IoU, and has the whole video tracked again with all prompts so far; and so on.

    Each pass starts with an empty memory but for prompted frames, whose answers stay. A frame is corrected once at most.
    When nothing is wrong any more, nothing is prompted.
    """
    truth = lru_cache(maxsize=1)(clip.truths.read)
    runs = [_offline(tracker, clip, i, truth, how) for i in range(len(clip.objects))]
    for _ in range(how.rounds):
        yield from _frame_by_frame(clip, runs)


def segment_anything(tracker: FrameTracker, clip: Clip, *, clicks: int = 5) -> Iterator[Answer]:
    """Every mask of an image on its own, from the first click to the last; memory has no part in it, and an object that
    was pointed at is never judged absent (SAM 2's image predictor). An answer of round k is the one after k clicks."""
    tracker = replace(tracker, options=replace(tracker.options, gate=False))
    truth = clip.truths.read(0)
    for begin in range(0, len(clip.objects), OBJECTS_AT_ONCE):
        members = list(range(begin, min(begin + OBJECTS_AT_ONCE, len(clip.objects))))
        ask = clicking(tracker, truth[members], clicks=clicks)
        output = observe(tracker, tracker.empty_bank(), tracker.features(0), 0, ask)
        for number, decoded in enumerate(output.rounds, start=1):
            yield Answer(0, decided(tracker.enlarged(decoded.best), non_overlap=False), members, number)


def _frame_by_frame(clip: Clip, runs: list[ObjectRun]) -> Iterator[Answer]:
    """All objects through the clip together, so that they share the features and the truth of each frame."""
    for t in range(clip.num_frames):
        for item, run in zip(clip.objects, runs, strict=True):
            if item.start <= t:
                yield from next(run)


def _online(tracker: FrameTracker, clip: Clip, index: int, truth_of: TruthFn, how: Interaction) -> ObjectRun:
    """One object. The run with n prompted frames is the run with n + 1 up to the point where the latter corrects once more.
    There it branches: banks are immutable, so a branch costs nothing but its own frames."""
    item = clip.objects[index]
    bank, prompted = tracker.empty_bank(), 0
    branches: dict[int, MemoryBank] = {}  # of users without a correction left, by the number of frames they prompted
    for t in range(item.start, clip.num_frames):
        truth, answers = truth_of(t)[index], []

        def answer(decoded: Decoded, rounds: int, t: int = t) -> Answer:
            return Answer(t, _mask(tracker, decoded), (index,), rounds)

        for rounds in branches:
            output, branches[rounds] = tracker.step(branches[rounds], t, no_prompt)
            answers.append(answer(output.final, rounds))
        # the user with corrections left: prompts the first frame, corrects bad ones
        ask = no_prompt
        if t in item.annotated and prompted < how.rounds:
            first = t == item.start
            ask = clicking(tracker, truth[None], clicks=how.clicks) if first else _correct_if_bad(tracker, truth, how)
        output, after = tracker.step(bank, t, ask)
        if output.prompted and prompted:
            # a user with no further correction goes on from what was tracked
            branches[prompted] = tracker.remember(bank, t, output.rounds[0], prompted=False)
            answers.append(answer(output.rounds[0], prompted))
            if not how.corrected_are_prompted:
                after = tracker.remember(bank, t, output.final, prompted=False)
        bank, prompted = after, prompted + output.prompted
        answers += [answer(output.final, rounds) for rounds in range(prompted, how.rounds + 1)]
        yield answers


def _correct_if_bad(tracker: FrameTracker, truth: Masks, how: Interaction) -> PromptFn:
    """Clicks on a tracked frame whose IoU with the truth (H, W) is below the threshold."""
    correct = clicking(tracker, truth[None], clicks=how.clicks, track_first=True)
    good_enough: bool | None = None

    def ask(answer: Decoded | None) -> Prompts | None:
        nonlocal good_enough
        if answer is not None and good_enough is None:
            good_enough = bool(region_similarity(_mask(tracker, answer)[0], truth) >= how.threshold)
        return None if good_enough else correct(answer)

    return ask


def _offline(tracker: FrameTracker, clip: Clip, index: int, truth_of: TruthFn, how: Interaction) -> ObjectRun:
    """One object, pass after pass."""
    item = clip.objects[index]
    given: dict[int, Masks] = {}  # masks (1, H, W) of prompted frames
    # memories of prompted frames alone; a correction that does not count as one must outlast its pass
    prompted = replace(tracker.empty_bank(), keep_all=not how.corrected_are_prompted)
    target: int | None = item.start
    seen = prompted  # by `target`: the bank as it was when the last pass came there
    for number in range(1, how.rounds + 1):
        # between passes: the first frame is prompted, or the worst one corrected
        if target is not None:
            first = target == item.start
            ask = clicking(tracker, truth_of(target)[[index]], clicks=how.clicks, track_first=not first)
            decoded = observe(tracker, seen, tracker.features(target), target, ask).final
            given[target] = _mask(tracker, decoded)
            prompted = tracker.remember(prompted, target, decoded, prompted=first or how.corrected_are_prompted)
        # the pass: every other frame is tracked, and the worst that may be corrected is noted
        bank, target, worst = prompted, None, 1.0
        for t in range(item.start, clip.num_frames):
            mask = given.get(t)
            if mask is None:
                before = bank
                output, bank = tracker.step(bank, t, no_prompt)
                mask = _mask(tracker, output.final)
                iou = float(region_similarity(mask[0], truth_of(t)[index])) if t in item.annotated else 1.0
                if iou < worst:
                    target, worst, seen = t, iou, before
            yield [Answer(t, mask, (index,), number)]


def _mask(tracker: FrameTracker, decoded: Decoded) -> Masks:
    """(1, H, W) of the only object."""
    return decided(tracker.enlarged(decoded.best), non_overlap=False)
