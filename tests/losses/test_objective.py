"""The objective: the reference's golden loss, the best of three, who counts, and what it is divided by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.config import LossWeights
from edgetam_pl.losses.masks import dice, focal, iou, upsampled
from edgetam_pl.losses.objective import TERMS, AnswerTerm, ClipTerm, JudgedAnswer, JudgedClip, Losses, Objective
from edgetam_pl.types import Decoded, FrameOutput, Prompts


def _random(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy((2 * np.random.RandomState(seed).standard_normal(shape)).astype(np.float32))


def _answer(logits: Tensor, iou: Tensor, presence: Tensor, prompts: Prompts | None = None) -> Decoded:
    return Decoded(logits, iou, presence, torch.zeros(len(logits), 4), prompts)


def _frame(*answers: Decoded, recalled: bool = True) -> FrameOutput:
    return FrameOutput(answers, torch.zeros(1, 4, 1, 1), recalled)


def _golden_clip() -> tuple[Tensor, tuple[FrameOutput, ...]]:
    truth = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    truth[0, 0, :2] = True
    truth[0, 1, :, 0] = True
    truth[1, 0, 1:3, 1:3] = True
    frames = []
    for t in range(2):
        three = _answer(_random(10 * t + 1, 2, 3, 4, 4), _random(10 * t + 3, 2, 3).sigmoid(), _random(10 * t + 5, 2, 1))
        one = _answer(_random(10 * t + 2, 2, 1, 4, 4), _random(10 * t + 4, 2, 1).sigmoid(), _random(10 * t + 6, 2, 1))
        frames.append(_frame(three, one))
    return truth, tuple(frames)


def test_the_golden_clip_costs_27_7409630() -> None:
    """Numbers of the SAM 2 release's loss on the same arrays (reference fixtures, golden_small.json)."""
    truth, frames = _golden_clip()
    losses = Objective(LossWeights())(truth, frames, num_objects=2.0)
    assert losses["focal"].item() == pytest.approx(1.0894930, abs=1e-6)
    assert losses["dice"].item() == pytest.approx(1.8558671, abs=1e-6)
    assert losses["iou"].item() == pytest.approx(1.3713701, abs=1e-6)
    assert losses["presence"].item() == pytest.approx(2.7238650, abs=1e-6)
    assert losses.weighted(LossWeights()).total.item() == pytest.approx(27.7409630, abs=1e-5)


def test_a_present_object_judged_absent_costs_2562() -> None:
    """Reference fixtures: loss_absent_prediction_half_foreground_4x4."""
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    truth[0, 0, :2] = True
    answer = _answer(torch.full((1, 1, 4, 4), -1024.0), torch.zeros(1, 1), torch.tensor([[-1.0]]))
    losses = Objective(LossWeights())(truth, (_frame(answer),), num_objects=1.0)
    assert losses.weighted(LossWeights()).total.item() == pytest.approx(2562.2021484, rel=1e-6)


def test_the_published_weights_are_focal_20_and_dice_1() -> None:
    """Table 5; the text of Sec. 4.1 swaps the two."""
    assert (LossWeights().focal, LossWeights().dice) == (20.0, 1.0)


def _plainly(truth: Tensor, frames: tuple[FrameOutput, ...], weights: LossWeights) -> Tensor:
    """The task loss as one would write it on paper: everything at full resolution."""
    total = torch.zeros(())
    for true, frame in zip(truth, frames, strict=True):
        present = true.flatten(1).any(dim=1)
        for answer in frame.rounds:
            full = upsampled(answer.logits, true.shape[-1])
            by_candidate = weights.focal * focal(full, true) + weights.dice * dice(full, true)  # (O, M)
            best = by_candidate.gather(1, by_candidate.argmin(dim=1, keepdim=True))[:, 0]
            wrong = weights.iou * (answer.iou - iou(full, true)).abs().mean(dim=1)
            total = total + ((best + wrong) * present).sum()
            there = F.binary_cross_entropy_with_logits(answer.presence[:, 0], present.float(), reduction="sum")
            total = total + weights.presence * there
    return total / truth.shape[1]


def test_value_and_gradient_equal_the_plain_form() -> None:
    torch.manual_seed(0)
    truth = torch.rand(3, 2, 16, 16) > 0.6
    truth[2, 1] = False  # absent

    def clip(tensors: list[Tensor]) -> tuple[FrameOutput, ...]:
        rounds = [_answer(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]
        return _frame(*rounds[:2]), _frame(rounds[2]), _frame(rounds[3])

    shapes = [s for m in (3, 1, 3, 3) for s in ((2, m, 4, 4), (2, m), (2, 1))]
    ours = [(3 * torch.randn(s)).requires_grad_() for s in shapes]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    found = Objective(LossWeights())(truth, clip(ours), num_objects=2.0).weighted(LossWeights()).total
    expected = _plainly(truth, clip(theirs), LossWeights())
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_only_the_best_of_three_is_held_to_the_truth() -> None:
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    truth[0, 0, :2] = True
    good = torch.where(truth[0, 0], 3.0, -3.0)
    logits = torch.stack([-good, good, torch.zeros(4, 4)])[None].requires_grad_()
    ious = torch.full((1, 3), 0.5, requires_grad=True)
    losses = Objective(LossWeights())(truth, (_frame(_answer(logits, ious, torch.ones(1, 1))),), num_objects=1.0)
    losses.total.backward()
    assert logits.grad is not None
    assert ious.grad is not None
    assert logits.grad[0].flatten(1).abs().sum(dim=1).ne(0).tolist() == [False, True, False]
    assert ious.grad.ne(0).all(), "every candidate's predicted IoU is supervised"


def test_the_best_of_three_is_best_by_the_weighted_sum() -> None:
    """By focal alone the last would win here, by dice alone or by the plain sum the middle one."""
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    truth[0, 0, :2] = True
    logits = torch.stack([torch.where(truth[0, 0], a, b) for a, b in ((-1.0, 1.0), (2.0, 2.0), (-3.0, -4.0))])[None]
    logits.requires_grad_()
    Objective(LossWeights())(
        truth, (_frame(_answer(logits, torch.zeros(1, 3), torch.ones(1, 1))),), num_objects=1.0
    ).total.backward()
    assert logits.grad is not None
    assert logits.grad[0].flatten(1).abs().sum(dim=1).ne(0).tolist() == [True, False, False]


def test_an_absent_object_is_only_asked_for_its_absence() -> None:
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    answer = _answer(torch.randn(1, 3, 4, 4), torch.rand(1, 3), torch.zeros(1, 1))
    losses = Objective(LossWeights())(truth, (_frame(answer),), num_objects=1.0)
    assert losses["focal"] == losses["dice"] == losses["iou"] == 0
    assert losses["presence"].item() == pytest.approx(np.log(2))


def test_terms_are_summed_over_frames_and_answers_and_divided_by_objects_alone() -> None:
    truth, frames = _golden_clip()
    once = Objective(LossWeights())(truth, frames, num_objects=2.0)
    twice = Objective(LossWeights())(truth.repeat(2, 1, 1, 1), frames * 2, num_objects=2.0)
    shared = Objective(LossWeights())(truth, frames, num_objects=4.0)
    torch.testing.assert_close(twice.total, 2 * once.total)
    torch.testing.assert_close(shared.total, once.total / 2)


def test_fewer_than_one_object_per_rank_counts_as_one() -> None:
    truth, frames = _golden_clip()
    half, one, tensor = (Objective(LossWeights())(truth, frames, num_objects=n) for n in (0.5, 1.0, torch.tensor(0.5)))
    torch.testing.assert_close(half.total, one.total)
    torch.testing.assert_close(tensor.total, one.total)


def test_a_given_mask_costs_a_tiny_constant_whatever_its_low_resolution_copy_looks_like() -> None:
    truth = torch.rand(1, 2, 16, 16) > 0.5
    given = _answer(torch.zeros(2, 1, 4, 4), torch.ones(2, 1), torch.full((2, 1), 10.0), Prompts(mask=truth[0][:, None]))
    losses = Objective(LossWeights())(truth, (_frame(given, recalled=False),), num_objects=2.0)
    assert 0 < losses.total < 1e-3
    assert not losses.total.requires_grad


def test_masks_may_be_compared_at_a_lower_resolution() -> None:
    truth = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    truth[0, 0, :8] = True
    logits = torch.where(truth[0, :, ::4, ::4], 50.0, -50.0)[None]
    losses = Objective(LossWeights(), mask_size=4)(
        truth, (_frame(_answer(logits, torch.ones(1, 1), torch.ones(1, 1))),), num_objects=1.0
    )
    assert losses["focal"] == 0
    assert losses["iou"] == 0


def test_losses_are_computed_in_fp32_under_autocast() -> None:
    truth, frames = _golden_clip()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = Objective(LossWeights())(truth, frames, num_objects=2.0)
    assert losses.weighted(LossWeights()).total.item() == pytest.approx(27.7409630, abs=1e-5)


def test_distillation_terms_count_only_when_there_is_a_teacher() -> None:
    truth, frames = _golden_clip()
    objective = Objective(LossWeights())
    alone = objective(truth, frames, student_f16=torch.ones(2, 4, 1, 1), num_objects=2.0)
    assert alone["img"] == alone["mem"] == 0
    taught_frames = tuple(frame._replace(f_m=torch.full((1, 4, 1, 1), 2.0)) for frame in frames)
    taught = objective(
        truth,
        frames,
        student_f16=torch.ones(2, 4, 1, 1),
        teacher_f16=torch.zeros(2, 4, 1, 1),
        teacher_outputs=taught_frames,
        num_objects=2.0,
    )
    assert (taught["img"].item(), taught["mem"].item()) == (1.0, 4.0)


def test_named_terms_carry_the_prefix_and_no_graph() -> None:
    losses = Losses({term.name: torch.ones((), requires_grad=True) for term in TERMS})
    assert list(losses.named("train")) == [f"train/{name}" for name in ("focal", "dice", "iou", "presence", "img", "mem")]
    assert not any(value.requires_grad for value in losses.named("train").values())


def test_one_output_per_frame_is_demanded() -> None:
    truth, frames = _golden_clip()
    with pytest.raises(ValueError, match="2 true frames and 1 outputs"):
        Objective(LossWeights())(truth, frames[:1], num_objects=1.0)


@dataclass
class _MoreWeights(LossWeights):
    """What `config.LossWeights` would hold."""

    area: float = 0.5
    logits: float = 0.25


def _area(one: JudgedAnswer) -> Tensor:
    """How many pixels too many or too few, as a share."""
    return one.answer.best.flatten(1).sigmoid().mean(dim=1) * one.present


def _logits(clip: JudgedClip, objective: Objective) -> Tensor | None:
    return torch.stack([frame.final.best.abs().mean() for frame in clip.outputs]).mean()


def test_a_term_is_added_by_its_entry_and_its_weight_and_adds_up_over_parts() -> None:
    """CONTRIBUTING, "add a loss term": one entry, one weight. Its reduction also holds for objects in parts."""
    truth, frames = _golden_clip()
    objective = Objective(_MoreWeights(), terms=(*TERMS, AnswerTerm("area", _area), ClipTerm("logits", _logits)))
    whole = objective(truth, frames, num_objects=2.0)
    assert list(whole) == [*(term.name for term in TERMS), "area", "logits"]
    before = Objective(LossWeights())(truth, frames, num_objects=2.0)
    assert {name: whole[name] for name in before} == before, "the other terms do not change"
    total = before.weighted(LossWeights()).total + 0.5 * whole["area"] + 0.25 * whole["logits"]
    torch.testing.assert_close(whole.weighted(_MoreWeights()).total, total)

    parts = [
        objective(truth[:, o : o + 1], tuple(_one_object(frame, o) for frame in frames), num_objects=2.0, share=0.5)
        for o in range(2)
    ]
    added = Losses.added(parts)
    for name, value in whole.items():
        torch.testing.assert_close(added[name], value, msg=name)


def _one_object(frame: FrameOutput, o: int) -> FrameOutput:
    rounds = tuple(Decoded(*(value[o : o + 1] for value in answer[:4]), prompts=None) for answer in frame.rounds)
    return FrameOutput(rounds, frame.f_m, frame.recalled)


@pytest.mark.parametrize(
    ("key", "named"), [("distance", "mse, cosine"), ("candidates", "best, all"), ("memory_frames", "recalled, all")]
)
def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are(key: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is 'manhattan'; use one of {named}"):
        Objective(LossWeights(), **{key: "manhattan"})  # type: ignore[arg-type]
