"""Teachers of another image size and width: what they are shown, told, and compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import steps
import torch
from torch.nn import functional as F

from edgetam_pl import weights
from edgetam_pl.config import PhaseConfig, PromptConfig, StageConfig
from edgetam_pl.tracking.prompters import at_side
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.step import StepResult
from edgetam_pl.training.teachers import MATCH, load_match
from edgetam_pl.training.track_batch import Teacher
from edgetam_pl.types import Prompts, VideoBatch

LARGER = steps.SIDE * 3 // 2
"""6 x 6 tokens beside the student's 4 x 4."""


def _module(frames: int = 3, *, dim: int = 32, points: float = 1.0, **stage: object) -> Distillation:
    prompts = PromptConfig(point_prob=points, corrections=1, max_corrected_frames=1)
    settings = StageConfig(phases=[PhaseConfig(frames=frames, steps=10, warmup=1)], prompts=prompts, **stage)  # type: ignore[arg-type]
    teacher = Teacher(steps.small(1, image_size=LARGER, dim=dim, compressor={"kind": "none"}), "toy", "0" * 64)
    return Distillation(steps.small(0), stage=settings, teacher=teacher).train()


def _seen(frames: int) -> VideoBatch:
    """The clip of `steps`, drawn at the teacher's size too."""
    batch = steps.clips(frames)
    larger = F.interpolate(batch.frames[0].float(), (LARGER, LARGER), mode="bilinear").round().byte()
    return replace(batch, views=(larger[None],))


@pytest.mark.parametrize("points", [0.0, 1.0])
@pytest.mark.parametrize("more", [{}, {"resample": "area"}, {"teacher_memory": "student", "teacher_logits": "student"}])
def test_a_larger_teacher_teaches_at_its_own_size(points: float, more: dict[str, object]) -> None:
    module = _module(points=points, **more)
    found = steps.taken(module, _seen(3))
    assert found.teacher is not None
    assert found.teacher.f16.shape[-2:] == (6, 6)
    assert found.student.f16.shape[-2:] == (4, 4)
    assert found.teacher.outputs[0].final.logits.shape[-1] == LARGER // 4
    assert found.losses["img"] > 0
    assert found.losses["mem"] > 0
    assert steps.gradients(module, found)


def test_a_teacher_that_is_not_shown_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match="A model of 96 px is shown a batch that was drawn at 64 px"):
        steps.taken(_module(), steps.clips(3))


def test_prompts_of_one_size_are_the_same_places_at_another() -> None:
    corners = torch.tensor([[[0.0, 0.0], [63.0, 31.0]]])
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 16:32, :48] = True
    told = at_side(Prompts(corners, torch.ones(1, 2), mask, torch.randn(1, 1, 16, 16)), 64, 96)
    assert told.points is not None
    assert told.mask is not None
    assert told.previous is not None
    torch.testing.assert_close((told.points + 0.5) / 96, (corners + 0.5) / 64)
    expected = torch.zeros(96, 96, dtype=torch.bool)
    expected[24:48, :72] = True
    assert torch.equal(told.mask[0, 0], expected)
    assert told.previous.shape[-1] == 24


def test_a_projection_is_trained_beside_the_student_and_leaves_with_the_loss(tmp_path: Path) -> None:
    """A wider teacher: its gradient and its place in the optimiser; no key of the weights that leave the run is its own."""
    module = _module(dim=64, projection="linear")
    found: StepResult = steps.taken(module, _seen(3))
    found.losses.weighted(module.stage.weights).total.backward()
    learned = dict(module.match.named_parameters())
    assert {name.split(".")[2] for name in learned} == {"f16", "f_m"}
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in learned.values())
    groups = {group["name"]: group["params"] for group in module.configure_optimizers()["optimizer"].param_groups}  # type: ignore[index]
    assert {id(parameter) for parameter in groups["projection"]} == {id(parameter) for parameter in learned.values()}

    checkpoint = tmp_path / "phase1-done.ckpt"
    torch.save({"state_dict": module.state_dict()}, checkpoint)
    assert any(name.startswith(MATCH) for name in module.state_dict())
    student = weights.load_into(steps.small(7), checkpoint)
    weights.save_official(student, tmp_path / "weights.pt")
    assert weights.contents(tmp_path / "weights.pt").state.keys() == weights.contents(checkpoint).state.keys()
    assert not [name for name in weights.contents(tmp_path / "weights.pt").state if "match" in name or "project" in name]

    again = _module(dim=64, projection="linear")
    load_match(again.match, checkpoint)
    for name, tensor in module.match.state_dict().items():
        assert torch.equal(again.match.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="does not hold the projection"):
        load_match(again.match, tmp_path / "weights.pt")


def test_without_a_projection_a_module_has_the_student_s_parameters_alone() -> None:
    module = _module()
    assert len(list(module.parameters())) == len(list(module.student.parameters()))
    assert not [name for name in module.state_dict() if name.startswith(MATCH)]
