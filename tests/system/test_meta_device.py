"""PyTorch's `meta` device computes shapes and no values, so whoever asks a tensor for its value fails there.

On an accelerator such a question makes the host wait until the device has caught up, and a tensor that was left on the
CPU ends the step. Both are found here without one: what runs on `meta` neither waits nor mixes devices.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from steps import clips, gradients, module_of, small, taken

from edgetam_pl.config import LossWeights
from edgetam_pl.evaluation import protocols
from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.inference.optimised import FastTracker
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.frame_tracker import FrameTracker, evaluating
from edgetam_pl.tracking.prompters import PromptPlan
from edgetam_pl.training.activation_checkpointing import VERBS, MemoryOptions
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.optim import parameter_groups
from edgetam_pl.training.step import StepOptions, compute_losses

META = torch.device("meta")


@pytest.fixture(autouse=True)
def autocast_that_knows_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.autocast refuses device types without autocast; which one is named here does not matter."""
    known = torch.autocast

    def autocast(device_type: str, *args: object, **options: object) -> object:
        return known("cpu" if device_type == "meta" else device_type, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "autocast", autocast)


def on_meta(module: Distillation) -> Distillation:
    assert module.teacher is not None
    module.teacher.model.to(META)
    return module.to(META)


STEPS = {
    "clicks": {"points": 1.0},
    "masks": {"points": 0.0},
    "objects in parts": {"points": 1.0, "memory_options": MemoryOptions(object_chunk=3)},
    "everything recomputed": {"points": 1.0, "memory_options": MemoryOptions(recompute=list(VERBS))},
    "the teacher's images in chunks": {"points": 1.0, "memory_options": MemoryOptions(encoder_chunk=1)},
    "all candidates at a small size": {"points": 1.0, "candidates": "all", "mask_size": 32},
    "cosine on all frames": {"points": 0.0, "distance": "cosine", "memory_frames": "all"},
    "the teacher remembers the student": {"points": 1.0, "teacher_memory": "student", "teacher_logits": "student"},
}


@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS.keys())
def test_a_training_step_never_waits_for_the_device(options: dict[str, object]) -> None:
    """Student, clicks, teacher, losses and the backward pass."""
    module = on_meta(module_of(2, **options))  # type: ignore[arg-type]
    found = gradients(module, taken(module, clips(2).to(META)))
    assert len(found) > 400
    assert {gradient.device.type for gradient in found.values()} == {"meta"}


PLANS = {
    "masks on two frames": PromptPlan((0, 1), by_points=False),
    "a click": PromptPlan((0,), by_points=True, boxed=(False,)),
    "a box": PromptPlan((0,), by_points=True, boxed=(True,)),
    "a click, corrected on two frames": PromptPlan(
        (0,), by_points=True, boxed=(False,), corrected=(0, 1), from_truth=((False, True), (False, False))
    ),
    "a box and a click, both corrected": PromptPlan(
        (0, 1), by_points=True, boxed=(True, False), corrected=(0, 1), from_truth=((True, False), (False, False))
    ),
}
"""Every kind that `draw_plan` draws."""


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_no_kind_of_prompts_waits_for_the_device(plan: PromptPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips in the batch."""
    monkeypatch.setattr(StepOptions, "plan", lambda *_: plan)
    module = on_meta(module_of(2))
    found = gradients(module, taken(module, clips(2, clips=2).to(META)))
    assert {gradient.device.type for gradient in found.values()} == {"meta"}


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_that_is_recomputed_waits_for_the_device(verb: str) -> None:
    """In a part of the objects, which is computed again itself. The teacher's verbs are not recomputed, so there is none."""
    module = on_meta(module_of(2, memory_options=MemoryOptions(recompute=(verb,), object_chunk=3)))
    found = gradients(module, compute_losses(module.student, (), clips(2).to(META), module.seeds, module.options))
    assert {gradient.device.type for gradient in found.values()} == {"meta"}


def test_fine_tuning_without_a_teacher_never_waits_for_the_device() -> None:
    module = on_meta(module_of(2))
    batch = clips(2).to(META)
    found = compute_losses(module.student, (), batch, module.seeds, module.options)
    assert {gradient.device.type for gradient in gradients(module, found).values()} == {"meta"}


def test_stage_1_never_waits_for_the_device() -> None:
    module = on_meta(module_of(1, name="image", weights=LossWeights(presence=0, mem=0)))
    found = gradients(module, taken(module, clips(1, clips=2).to(META)))
    assert {gradient.device.type for gradient in found.values()} == {"meta"}


def test_a_frozen_encoder_never_waits_for_the_device() -> None:
    module = on_meta(module_of(2))
    module.stage.phases[0].freeze_encoder = True
    module.enter(0)
    module.on_train_batch_start(clips(2).to(META), 0)
    found = gradients(module, taken(module, clips(2).to(META)))
    assert found
    assert not any(name.startswith("image_encoder.trunk") for name in found)


def test_the_optimiser_s_step_never_waits_for_the_device() -> None:
    module = on_meta(module_of(2))
    groups = parameter_groups(module.student, lr=1e-3, encoder_lr=1e-4, weight_decay=0.1, layer_decay=1.0)
    optimiser = torch.optim.AdamW(groups, foreach=True)
    gradients(module, taken(module, clips(2).to(META)))
    torch.nn.utils.clip_grad_norm_(module.student.parameters(), 0.1)
    optimiser.step()


@pytest.mark.parametrize("prompt", ["mask", "1-click", "box"])
def test_evaluation_waits_for_the_masks_of_a_frame_alone(prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semi-supervised tracking of two objects that start on different frames, up to the masks that the scorer takes."""
    monkeypatch.setattr(protocols, "decided", lambda logits, **_: logits)  # the one place that asks for values
    truth = np.zeros((4, 2, 40, 64), bool)
    truth[:, 0, 5:20, 5:20] = True
    truth[1:, 1, 20:35, 30:50] = True
    clip = Clip.of_arrays("clip", FRAMES, truth)
    tracker = protocols.clip_tracker(model_on_meta(), clip, device=META)
    with evaluating(tracker.model):
        answers = list(protocols.follow(tracker, clip, prompt=prompt))
    assert [answer.masks.device.type for answer in answers] == ["meta"] * 4  # type: ignore[union-attr]


@pytest.mark.parametrize("prompt", ["mask", "click"])
def test_tracking_frames_never_waits_for_the_device(prompt: str) -> None:
    """What evaluation, validation and the benchmark run for each frame."""
    tracker = FrameTracker(model_on_meta(), read=lambda t: FRAMES[t], size=(40, 64), count=len(FRAMES), device=META)
    given = (
        tracker.mask_prompt(MASKS) if prompt == "mask" else tracker.point_prompt(POINTS, torch.ones(2, 1, dtype=torch.int64))
    )
    bank = tracker.empty_bank()
    with evaluating(tracker.model):
        for t in range(len(FRAMES)):
            output, bank = tracker.step(bank, t, lambda asked, t=t: given if t == 0 and asked is None else None)
            assert tracker.enlarged(output.final.logits).shape == (2, 40, 64)


def test_a_session_never_waits_for_the_device() -> None:
    """Two objects, a correction on a later frame, then propagation."""
    session = Session(model_on_meta(), Stills(FRAMES), device="meta")
    session.prompt(1, 0, points=[(20.0, 20.0)])
    session.prompt(2, 0, box=(5.0, 5.0, 30.0, 30.0))
    session.prompt(1, 2, points=[(22.0, 20.0)])
    assert [output.logits.device.type for output in session.propagate()] == ["meta"] * len(FRAMES)


@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(batch_objects=True, keep_all=True),
        SessionOptions(non_overlap=True, channels_last=True),
        SessionOptions.released(postprocessing=False),
        SessionOptions(autocast=torch.bfloat16),
    ],
    ids=["objects together", "no overlap", "as released", "bfloat16"],
)
def test_no_option_of_a_session_waits_for_the_device(options: SessionOptions) -> None:
    """Three objects, one by its mask, forwards and backwards, with the model as `FastTracker` runs it."""
    session = Session(FastTracker(model_on_meta()), Stills(FRAMES), options=options, device="meta")
    session.prompt(1, 1, points=[(20.0, 20.0)])
    session.prompt(2, 1, box=(5.0, 5.0, 30.0, 30.0))
    session.prompt(3, 1, mask=MASKS[0] | True)
    for backwards in (False, True):
        assert {output.logits.device.type for output in session.propagate(backwards=backwards)} == {"meta"}


def model_on_meta() -> TrackAnything:
    return copy.deepcopy(small(0)).to(META).eval()


FRAMES = np.zeros((4, 40, 64, 3), np.uint8)
MASKS = np.zeros((2, 40, 64), bool)
POINTS = torch.tensor([[[20.0, 20.0]], [[30.0, 10.0]]])
