"""Session, evaluation and rollout give the same answers: with equal options the difference is 0.0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import TINY

from edgetam_pl.build import build_model
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.protocols import Answer, clip_tracker, decided, first_prompt, follow
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.frame_tracker import FrameTracker
from edgetam_pl.tracking.prompters import no_prompt
from edgetam_pl.tracking.step import PromptFn, Tracker, rollout
from edgetam_pl.training.track_batch import encode_frames
from edgetam_pl.training.track_batch import track_objects as follow_batch
from edgetam_pl.types import Decoded, Prompts, VideoBatch

FRAMES, STARTS, PROMPTS = 7, (0, 2, 3), ("mask", "box", "1-click", "3-click")


@pytest.fixture(scope="module")
def model() -> TrackAnything:
    torch.manual_seed(0)
    model = build_model(TINY).eval().requires_grad_(False)
    # present, or every mask would be empty and any two ways would agree
    model.mask_decoder.presence_head.layers[-1].bias.fill_(5.0)
    return model


def a_clip(size: tuple[int, int], starts: Sequence[int]) -> Clip:
    pixels, masks = toy_clip(3, FRAMES, size, len(starts))
    for number, start in enumerate(starts):
        masks[:start, number] = False
    clip = Clip.of_arrays("toy", pixels, masks)
    assert [item.start for item in clip.objects] == list(starts)
    return clip


class Recorded:
    """The prompts that evaluation gives the objects of one first frame, to give them again."""

    def __init__(self, tracker: FrameTracker, truth: np.ndarray, prompt: str, start: int = 0) -> None:
        self.given: list[Prompts] = []
        self.start, self.ask = start, first_prompt(prompt)(tracker, truth)

    def record(self, answer: Decoded | None) -> Prompts | None:
        prompts = self.ask(answer)
        self.given += [] if prompts is None else [prompts]
        return prompts

    def order(self, num_frames: int) -> range:
        return range(num_frames)

    def at(self, t: int) -> PromptFn:
        remaining: Iterator[Prompts] = iter(self.given if t == self.start else ())
        return lambda answer: next(remaining, None)


def evaluated(tracker: FrameTracker, recorded: Recorded) -> Tensor:
    """Logits (T, O, H, W) as evaluation computes them before it decides."""
    bank, logits = tracker.empty_bank(), []
    for t in range(recorded.start, FRAMES):
        output, bank = tracker.step(bank, t, recorded.record if t == recorded.start else no_prompt)
        logits.append(tracker.enlarged(output.final.best))
    return torch.stack(logits)


def rolled_out(tracker: Tracker, frames: FrameTracker, recorded: Recorded) -> Tensor:
    bank = MemoryBank(policy=RecallPolicy.inference(FRAMES))
    outputs = rollout(tracker, frames.features, recorded, num_frames=FRAMES, bank=bank)
    return torch.stack([frames.enlarged(output.final.best) for output in outputs])


def prompted_session(model: TrackAnything, clip: Clip, prompt: str, options: SessionOptions | None = None) -> Session:
    """A session whose user gives the prompts of evaluation, seeing only what the session shows."""
    session = Session(model, Stills(np.stack([clip.frames.read(t) for t in range(FRAMES)])), options=options)
    tracker = clip_tracker(model, clip)
    for number, item in enumerate(clip.objects, start=1):
        truth = clip.truths.read(item.start)[[number - 1]]
        recorded = Recorded(tracker, truth, prompt, item.start)
        evaluated(tracker, recorded)
        for prompts in recorded.given:
            if prompts.mask is not None:
                session.prompt(number, item.start, mask=truth[0])
                continue
            assert prompts.points is not None
            assert prompts.labels is not None
            points = prompts.points[0] / torch.tensor([tracker.model.image_size / side for side in clip.size[::-1]])
            if prompt == "box":
                session.prompt(number, item.start, box=points.flatten().tolist())
            else:  # clicks add up in the session
                session.prompt(number, item.start, points=[points[-1].tolist()], labels=[int(prompts.labels[0, -1])])
    return session


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_session_and_evaluation_agree_to_the_last_bit_with_several_objects(model: TrackAnything, prompt: str) -> None:
    """Each object starts on a frame of its own; frames are of another size than the model's input."""
    clip = a_clip((48, 96), STARTS)
    session = prompted_session(model, clip, prompt)
    shown = {out.frame: out for out in session.propagate()}
    answers: dict[int, Answer] = {answer.t: answer for answer in follow(clip_tracker(model, clip), clip, prompt=prompt)}
    for index, start in enumerate(STARTS):
        truth = clip.truths.read(start)[[index]]
        expected = evaluated(clip_tracker(model, clip), Recorded(clip_tracker(model, clip), truth, prompt, start))
        found = torch.stack([shown[t].logits[shown[t].objects.index(index + 1)] for t in range(start, FRAMES)])
        assert (found - expected[:, 0]).abs().max() == 0.0
    for t in range(max(STARTS), FRAMES):
        assert np.array_equal(answers[t].masks, decided(shown[t].logits, non_overlap=True))


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_rollout_agrees_to_the_last_bit(model: TrackAnything, prompt: str) -> None:
    """Three objects that go through the network together, by rollout, by evaluation, and by the training code."""
    side = TINY.image_size
    clip = a_clip((side, side), (0, 0, 0))
    tracker = clip_tracker(model, clip)
    recorded = Recorded(tracker, clip.truths.read(0), prompt)
    expected = evaluated(tracker, recorded)
    assert (rolled_out(tracker, tracker, recorded) - expected).abs().max() == 0.0
    frames = torch.stack([torch.from_numpy(clip.frames.read(t)).permute(2, 0, 1) for t in range(FRAMES)])
    masks = torch.from_numpy(np.stack([clip.truths.read(t) for t in range(FRAMES)]))
    batch = VideoBatch(frames[None], masks, torch.zeros(3, dtype=torch.int64), ("toy",))
    features = encode_frames(model, batch.frames, chunk=1)
    trained = torch.stack([tracker.enlarged(o.final.best) for o in follow_batch(model, features, batch, recorded)])
    if prompt != "mask":
        assert (trained - expected).abs().max() == 0.0
        return
    # training remembers a given mask itself, inference its quarter-size logits (SAM 2 release): an option
    assert (trained - expected).abs().max() > 0.0
    plain = FrameTracker(model, clip.frames.read, clip.size, FRAMES, options=SessionOptions(memory_from_low_res=False))
    assert (evaluated(plain, Recorded(plain, clip.truths.read(0), prompt)) - trained).abs().max() == 0.0


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("low_res", [True, False])
def test_a_session_is_the_rollout_of_each_object(model: TrackAnything, prompt: str, low_res: bool) -> None:
    clip = a_clip((TINY.image_size, TINY.image_size), (0, 0, 0))
    options = SessionOptions(memory_from_low_res=low_res)
    found = torch.stack([out.logits for out in prompted_session(model, clip, prompt, options).propagate()])
    tracker = FrameTracker(model, clip.frames.read, clip.size, FRAMES, options=options)
    for index in range(3):
        recorded = Recorded(tracker, clip.truths.read(0)[[index]], prompt)
        evaluated(tracker, recorded)
        # without the option the model's own methods are the whole story
        expected = rolled_out(tracker if low_res else model, tracker, recorded)
        assert (found[:, index] - expected[:, 0]).abs().max() == 0.0


@torch.no_grad()
def test_objects_evaluated_together_differ_from_a_session_by_rounding_alone(model: TrackAnything) -> None:
    clip = a_clip((48, 96), (0, 0, 0))
    tracker = clip_tracker(model, clip)
    together = evaluated(tracker, Recorded(tracker, clip.truths.read(0), "box"))
    alone = torch.stack([out.logits for out in prompted_session(model, clip, "box").propagate()])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 * float(together.abs().max()))


def test_features_are_computed_once_for_all_objects_of_a_frame(model: TrackAnything) -> None:
    clip = a_clip((48, 96), STARTS)
    tracker = clip_tracker(model, clip)
    with torch.no_grad():
        first = tracker.features(0)
        assert tracker.features(1) is not first
        assert tracker.features(0) is first
        tracker.features(2)
        tracker.features(3)
        assert tracker.features(0) is not first  # only the last few are kept
