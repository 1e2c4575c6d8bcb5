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
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.frame_tracker import FrameTracker, evaluating
from edgetam_pl.training.activation_checkpointing import VERBS, MemoryOptions
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.optim import parameter_groups

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
    "objects in parts": {"points": 1.0, "memory_options": MemoryOptions(object_chunk=2)},
    "everything recomputed": {"points": 1.0, "memory_options": MemoryOptions(recompute=list(VERBS))},
    "the teacher's images in chunks": {"points": 1.0, "memory_options": MemoryOptions(encoder_chunk=1)},
    "all candidates at a small size": {"points": 1.0, "candidates": "all", "mask_size": 32},
    "cosine on all frames": {"points": 0.0, "distance": "cosine", "memory_frames": "all"},
    "the teacher remembers the student": {"points": 1.0, "teacher_memory": "student", "teacher_logits": "student"},
}


@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS.keys())
def test_a_training_step_never_waits_for_the_device(options: dict[str, object]) -> None:
    """Student, clicks, teacher, losses and the backward pass."""
    module = on_meta(module_of(3, **options))  # type: ignore[arg-type]
    found = gradients(module, taken(module, clips(3).to(META)))
    assert len(found) > 400
    assert {gradient.device.type for gradient in found.values()} == {"meta"}


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


def model_on_meta() -> TrackAnything:
    return copy.deepcopy(small(0)).to(META).eval()


FRAMES = np.zeros((4, 40, 64, 3), np.uint8)
MASKS = np.zeros((2, 40, 64), bool)
POINTS = torch.tensor([[[20.0, 20.0]], [[30.0, 10.0]]])
