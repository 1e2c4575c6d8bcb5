"""L_img and L_mem: means over elements, only where both recalled."""

from __future__ import annotations

import pytest
import torch

from edgetam_pl.losses.distill import distance, memory_distance
from edgetam_pl.types import Decoded, FrameOutput, Prompts


def _frame(value: float, recalled: bool = True, objects: int = 2) -> FrameOutput:
    return FrameOutput((), torch.full((objects, 4, 2, 2), value), recalled)


def test_mse_is_a_mean_over_elements_in_fp32() -> None:
    student, teacher = torch.full((3, 4, 2, 2), 1.5, dtype=torch.bfloat16), torch.zeros(3, 4, 2, 2)
    found = distance(student, teacher, "mse")
    assert found.dtype == torch.float32
    assert found.item() == 2.25


def test_cosine_ignores_length_and_runs_from_zero_to_two() -> None:
    map_ = torch.randn(2, 8, 3, 3)
    assert distance(map_, 5 * map_, "cosine").item() == pytest.approx(0.0, abs=1e-6)
    assert distance(map_, -map_, "cosine").item() == pytest.approx(2.0)


def test_only_the_student_gets_a_gradient() -> None:
    student, teacher = torch.randn(1, 2, 2, 2, requires_grad=True), torch.randn(1, 2, 2, 2, requires_grad=True)
    distance(student, teacher, "mse").backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_memory_distance_counts_frames_on_which_both_recalled() -> None:
    student = (_frame(9.0, recalled=False), _frame(1.0), _frame(3.0), _frame(7.0))
    teacher = (_frame(0.0), _frame(0.0), _frame(0.0), _frame(0.0, recalled=False))
    assert memory_distance(student, teacher, "mse").item() == (1.0 + 9.0) / 2


def test_memory_distance_is_zero_when_nothing_was_recalled() -> None:
    assert memory_distance((_frame(1.0, recalled=False),), (_frame(2.0),), "mse").item() == 0.0


def test_prompted_frames_count_when_all_do_but_given_masks_never() -> None:
    def prompted(value: float, said: Prompts) -> FrameOutput:
        nothing = torch.zeros(2, 1)
        return FrameOutput((Decoded(nothing, nothing, nothing, nothing, said),), _frame(value).f_m, recalled=False)

    clicked, given = Prompts(points=torch.zeros(2, 1, 2)), Prompts(mask=torch.zeros(2, 1, 2, 2, dtype=torch.bool))
    student = (prompted(9.0, given), prompted(2.0, clicked), _frame(3.0))
    teacher = (prompted(0.0, given), prompted(0.0, clicked), _frame(0.0))
    assert memory_distance(student, teacher, "mse").item() == 9.0
    assert memory_distance(student, teacher, "mse", "all").item() == (4.0 + 9.0) / 2


def test_what_was_made_under_inference_mode_may_be_learned_from() -> None:
    with torch.inference_mode():
        teacher = torch.ones(1, 4, 2, 2)
    student = torch.zeros(1, 4, 2, 2, requires_grad=True)
    distance(student, teacher, "mse").backward()
    assert student.grad is not None


def test_one_row_of_features_stands_for_all_objects() -> None:
    assert memory_distance((_frame(1.0, objects=3),), (_frame(3.0, objects=1),), "mse").item() == 4.0


def test_features_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(4, 2, 2\).*\(8, 2, 2\)"):
        distance(torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 2, 2), "mse")
