"""Protocols with a person in the loop: promptable video segmentation online and offline (SAM 2 Sec. 6.1, App. E; Fig. 5 of
EdgeTAM), and Segment Anything on images (Table 1).

A person clicks in the middle of the largest error. Every object is followed on its own. One run of a protocol answers for
all numbers of rounds at once: `Answer.round` is the number of prompted frames, or of clicks, that the answer stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from edgetam_pl.evaluation.clip_tracker import Eyes, Follower, silent
from edgetam_pl.evaluation.clips import Clip, Masks
from edgetam_pl.evaluation.protocols import Answer, clicking
from edgetam_pl.metrics.jf import region_similarity
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.step import PromptFn, observe
from edgetam_pl.types import Decoded, FrameOutput, ImageFeatures, Prompts

OBJECTS_AT_ONCE = 16
"""Masks of an image that are decoded together."""


@dataclass(frozen=True)
class Interaction:
    """How a person works (SAM 2 App. E)."""

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


def pvs_online(eyes: Eyes, clip: Clip, *, how: Interaction) -> Iterator[Answer]:
    """One pass. The person prompts the first frame, watches, and corrects the first frame that is worse than the
    threshold; what came before stays as it is. An answer of round n is what a person has who corrects n frames at most.

    The run for n frames is the run for n + 1 up to the point where the latter corrects once more. There it branches: banks
    are immutable, so a branch costs nothing but its own frames, and image features are shared by all.
    """
    people = [_OnlinePerson(eyes, index, how) for index in range(len(clip.objects))]
    for t in range(clip.num_frames):
        awake = [person for person in people if clip.objects[person.index].start <= t]
        if awake:
            features, truth = eyes.see(t), clip.truths.read(t)
            for person in awake:
                yield from person.watch(t, features, truth[person.index])


@dataclass
class _OnlinePerson:
    """One object: the run of the person who may still correct, and those of people who have no corrections left."""

    eyes: Eyes
    index: int
    how: Interaction
    prompted: int = 0
    """Frames prompted so far."""
    resigned: dict[int, Follower] = field(default_factory=dict)
    """By the number of frames they prompted."""

    def __post_init__(self) -> None:
        self.follower = Follower(self.eyes, self.eyes.bank())
        item = self.eyes.clip.objects[self.index]
        self.start, self.annotated = item.start, frozenset(item.annotated)

    def watch(self, t: int, features: ImageFeatures, truth: Masks) -> Iterator[Answer]:
        for rounds, follower in self.resigned.items():
            yield self._answer(t, follower.look(t, features, silent).final, rounds)
        before = self.follower.bank
        may_correct = t in self.annotated and self.prompted < self.how.rounds
        output = self.follower.look(t, features, self._ask(t, truth) if may_correct else silent)
        if output.prompted:
            if self.prompted:
                self._resign(before, t, features, output)
                yield self._answer(t, output.rounds[0], self.prompted)
                if not self.how.corrected_are_prompted:
                    self.follower.bank = _as_tracked(self.follower.bank, t)
            self.prompted += 1
        for rounds in range(self.prompted, self.how.rounds + 1):
            yield self._answer(t, output.final, rounds)

    def _resign(self, before: MemoryBank, t: int, features: ImageFeatures, output: FrameOutput) -> None:
        """The person without a further correction goes on from what was tracked."""
        branch = Follower(self.eyes, before)
        if t < self.eyes.clip.num_frames - 1:
            tracked = self.eyes.memorize(features.f16, output.rounds[0])
            branch.bank = before.write(t, tracked, prompted=False)
        self.resigned[self.prompted] = branch

    def _ask(self, t: int, truth: Masks) -> PromptFn:
        if t == self.start:
            return clicking(self.eyes, truth[None], clicks=self.how.clicks)
        correct = clicking(self.eyes, truth[None], clicks=self.how.clicks, look_first=True)
        good_enough: bool | None = None

        def ask(answer: Decoded | None) -> Prompts | None:
            nonlocal good_enough
            if answer is not None and good_enough is None:
                good_enough = bool(region_similarity(_mask(self.eyes, answer), truth) >= self.how.threshold)
            return None if good_enough else correct(answer)

        return ask

    def _answer(self, t: int, decoded: Decoded, rounds: int) -> Answer:
        return Answer(t, _mask(self.eyes, decoded)[None], (self.index,), rounds)


def pvs_offline(eyes: Eyes, clip: Clip, *, how: Interaction) -> Iterator[Answer]:
    """Several passes. The person prompts the first frame and lets the whole video be tracked; then corrects the frame with
    the lowest IoU, and has the whole video tracked again with all prompts so far; and so on.

    Each pass starts with an empty memory but for prompted frames, whose answers stay. A frame is corrected once at most.
    When nothing is wrong any more, nothing is said.
    """
    people = [_OfflinePerson(eyes, index, how) for index in range(len(clip.objects))]
    for number in range(1, how.rounds + 1):
        for person in people:
            person.begin()
        for t in range(clip.num_frames):
            awake = [person for person in people if clip.objects[person.index].start <= t]
            if awake:
                features, truth = eyes.see(t), clip.truths.read(t)
                for person in awake:
                    yield Answer(t, person.watch(t, features, truth[person.index])[None], (person.index,), number)


@dataclass(frozen=True)
class _Worst:
    """The frame of a pass that is to be corrected, and the bank as it was when the pass came there."""

    iou: float
    t: int
    bank: MemoryBank


@dataclass
class _OfflinePerson:
    """One object: prompts so far, and the pass that is going on."""

    eyes: Eyes
    index: int
    how: Interaction
    done: dict[int, Masks] = field(default_factory=dict)
    """Masks (H, W) of prompted frames."""
    worst: _Worst | None = None

    def __post_init__(self) -> None:
        item = self.eyes.clip.objects[self.index]
        self.start, self.annotated = item.start, frozenset(item.annotated)
        self.prompted = self.eyes.bank()  # memories of prompted frames alone
        self.follower = Follower(self.eyes, self.prompted)

    def begin(self) -> None:
        """Between passes: prompt the first frame, or correct the worst of the last pass."""
        truth_of = self.eyes.clip.truths.read
        if not self.done:
            ask = clicking(self.eyes, truth_of(self.start)[[self.index]], clicks=self.how.clicks)
            self._interact(self.start, self.prompted, ask)
        elif self.worst is not None and self.worst.iou < 1:
            truth = truth_of(self.worst.t)[[self.index]]
            ask = clicking(self.eyes, truth, clicks=self.how.clicks, look_first=True)
            self._interact(self.worst.t, self.worst.bank, ask)
        self.follower, self.worst = Follower(self.eyes, self.prompted), None

    def watch(self, t: int, features: ImageFeatures, truth: Masks) -> Masks:
        """Mask (H, W) of frame t in this pass; the worst frame that may be corrected is kept in mind."""
        if t in self.done:
            return self.done[t]
        before = self.follower.bank
        mask = _mask(self.eyes, self.follower.look(t, features, silent).final)
        if t in self.annotated:
            iou = float(region_similarity(mask, truth))
            if self.worst is None or iou < self.worst.iou:
                self.worst = _Worst(iou, t, before)
        return mask

    def _interact(self, t: int, bank: MemoryBank, ask: PromptFn) -> None:
        features = self.eyes.see(t)
        output = observe(self.eyes, bank, features, t, ask)
        self.done[t] = _mask(self.eyes, output.final)
        memory = self.eyes.memorize(features.f16, output.final)
        as_prompted = t == self.start or self.how.corrected_are_prompted
        # a correction that is no prompt must outlast the pass it was made in
        self.prompted = replace(self.prompted, keep_all=self.prompted.keep_all or not as_prompted)
        self.prompted = self.prompted.write(t, memory, prompted=as_prompted)


def segment_anything(eyes: Eyes, clip: Clip, *, clicks: int = 5) -> Iterator[Answer]:
    """Every mask of an image on its own, from the first click to the last; memory has no part in it, and an object that
    was pointed at is never judged absent (SAM 2's image predictor). An answer of round k is the one after k clicks."""
    eyes = replace(eyes, gate=False)
    features, truth = eyes.see(0), clip.truths.read(0)
    for begin in range(0, len(clip.objects), OBJECTS_AT_ONCE):
        members = list(range(begin, min(begin + OBJECTS_AT_ONCE, len(clip.objects))))
        ask = clicking(eyes, truth[members], clicks=clicks)
        output = observe(eyes, eyes.bank(), features, 0, ask)
        for number, decoded in enumerate(output.rounds, start=1):
            yield Answer(0, (eyes.enlarged(decoded) > 0).cpu().numpy(), members, number)


def _mask(eyes: Eyes, decoded: Decoded) -> Masks:
    """(H, W) of the only object."""
    return (eyes.enlarged(decoded)[0] > 0).cpu().numpy()


def _as_tracked(bank: MemoryBank, t: int) -> MemoryBank:
    """The bank with frame t no longer a prompted one."""
    memory = dict(bank.prompted).get(t)
    return bank if memory is None else bank.forget({t}).write(t, memory, prompted=False)
