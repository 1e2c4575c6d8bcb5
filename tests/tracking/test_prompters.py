"""Prompters: the plan's frequencies, ranks that agree on the plan and not on the clicks, corrections, and the replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from edgetam_pl.config import PromptConfig
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.prompters import (
    GivenMasks,
    PromptPlan,
    Replay,
    Script,
    SimulatedClicks,
    correct,
    draw_plan,
)
from edgetam_pl.tracking.step import Prompter, rollout
from edgetam_pl.types import ABSENT_LOGIT, Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall

OBJECTS, SIDE = 2, 16
NEVER = ((False,) * 7,)


class Painter:
    """Answers with a fixed picture; every answer differs a little, so that the logits handed back can be told apart."""

    def __init__(self, picture: Tensor) -> None:
        self.picture = picture.clone().requires_grad_()  # (S/4, S/4) logits
        self.decoded: list[Decoded] = []
        self.attended = 0

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        self.attended += 1
        return f16

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        candidates = 1 if prompts is not None and prompts.num_points > 1 else 3
        logits = (self.picture + 1e-3 * len(self.decoded)).expand(OBJECTS, candidates, -1, -1)
        ious = torch.linspace(0, 1, candidates).expand(OBJECTS, -1)
        self.decoded.append(Decoded(logits, ious, torch.ones(OBJECTS, 1), torch.zeros(OBJECTS, 4), prompts))
        return self.decoded[-1]

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        return Memory(torch.zeros(OBJECTS, 1, 4), torch.zeros(1, 1, 4), decoded.pointer, (0, 0))


def _features(t: int) -> ImageFeatures:
    return ImageFeatures(None, None, torch.zeros(1, 4, 1, 1))


def _track(prompter: Prompter, num_frames: int, picture: Tensor | None = None) -> tuple[Painter, tuple[FrameOutput, ...]]:
    painter = Painter(torch.full((4, 4), -1.0) if picture is None else picture)
    return painter, rollout(painter, _features, prompter, num_frames=num_frames, bank=MemoryBank())


def _truth(num_frames: int) -> Tensor:
    masks = torch.zeros(num_frames, OBJECTS, SIDE, SIDE, dtype=torch.bool)
    masks[:, 0, 2:9, 2:9] = True
    masks[:, 1, 5:15, 8:14] = True
    return masks


def _said(output: FrameOutput) -> Sequence[Prompts]:
    return [answer.prompts for answer in output.rounds if answer.prompts is not None]


def _clicks(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the plan ---


def test_joint_frequencies_of_the_plan_are_the_releases(generator: torch.Generator) -> None:
    """Reference fixtures, golden_small.json: prompt_plan_frequencies."""
    rounds = 8000
    drawn = Counter[tuple[bool, int, int]]()
    for _ in range(rounds):
        plan = draw_plan(PromptConfig(), 8, generator)
        drawn[plan.by_points, len(plan.initial), len(plan.corrected)] += 1
    expected = {(False, 1, 0): 0.25, (False, 2, 0): 0.25, (True, 1, 1): 0.125, (True, 1, 2): 0.125, (True, 2, 2): 0.25}
    assert set(drawn) == set(expected)
    for kind, share in expected.items():
        assert drawn[kind] / rounds == pytest.approx(share, abs=0.02)  # four standard deviations


def test_frame_0_is_always_prompted_and_the_others_are_uniform(generator: torch.Generator) -> None:
    others = Counter[int]()
    for _ in range(4000):
        plan = draw_plan(PromptConfig(), 8, generator)
        assert plan.initial[0] == 0
        others.update(plan.initial[1:])
    assert set(others) == set(range(1, 8))
    assert max(others.values()) / sum(others.values()) < 1 / 7 + 0.04


def test_boxes_and_clicks_from_truth_have_their_probabilities(generator: torch.Generator) -> None:
    plans = [draw_plan(PromptConfig(), 8, generator) for _ in range(4000)]
    boxes = [boxed for plan in plans for boxed in plan.boxed]
    from_truth = [flag for plan in plans for rounds in plan.from_truth for flag in rounds]
    assert sum(boxes) / len(boxes) == pytest.approx(0.5, abs=0.04)
    assert sum(from_truth) / len(from_truth) == pytest.approx(0.1, abs=0.01)


def test_prompted_frames_are_corrected_before_others_and_seven_times(generator: torch.Generator) -> None:
    for _ in range(200):
        plan = draw_plan(PromptConfig(), 8, generator)
        if not plan.by_points:
            assert plan.corrected == ()
            continue
        assert plan.corrected[: len(plan.initial)] == plan.initial
        assert len(set(plan.corrected)) == len(plan.corrected)
        assert [len(rounds) for rounds in plan.from_truth] == [7] * len(plan.corrected)


def test_an_image_is_always_prompted_by_points_and_corrected(generator: torch.Generator) -> None:
    for _ in range(50):
        plan = draw_plan(PromptConfig(point_prob=0.0), 1, generator)
        assert (plan.by_points, plan.initial, plan.corrected) == (True, (0,), (0,))


def test_a_plan_without_corrections_is_possible(generator: torch.Generator) -> None:
    for mix in (PromptConfig(corrections=0), PromptConfig(max_corrected_frames=0)):
        assert all(draw_plan(mix, 8, generator).corrected == () for _ in range(50))


def test_two_ranks_follow_the_same_plan_and_click_elsewhere() -> None:
    plans, points = [], []
    for rank in range(2):
        shared = torch.Generator().manual_seed(42)  # the same on every rank
        plan = draw_plan(PromptConfig(point_prob=1.0), 4, shared)
        _, outputs = _track(SimulatedClicks(_truth(4), plan, _clicks(100 + rank)), 4)
        plans.append((plan, [[p.num_points for p in _said(output)] for output in outputs]))
        points.append(torch.cat([p.points.flatten() for output in outputs for p in _said(output) if p.points is not None]))
    assert plans[0] == plans[1]
    assert not torch.equal(points[0], points[1])


# --- simulated clicks ---


def test_mask_plans_give_the_truth_as_the_answer() -> None:
    truth = _truth(6)
    _, outputs = _track(SimulatedClicks(truth, PromptPlan((0, 4), by_points=False), _clicks()), 6)
    assert [t for t, output in enumerate(outputs) if output.prompted] == [0, 4]
    given = outputs[4].final.prompts
    assert given is not None
    assert given.mask is not None
    assert given.mask.shape == (OBJECTS, 1, SIDE, SIDE)
    assert torch.equal(given.mask[:, 0], truth[4])


@pytest.mark.parametrize(("boxed", "first"), [(True, 2), (False, 1)])
def test_corrected_frames_are_decoded_eight_times_and_attended_once(boxed: bool, first: int) -> None:
    plan = PromptPlan((0,), by_points=True, boxed=(boxed,), corrected=(0,), from_truth=NEVER)
    painter, outputs = _track(SimulatedClicks(_truth(3), plan, _clicks()), 3)
    assert [len(output.rounds) for output in outputs] == [8, 1, 1]
    assert painter.attended == 3
    assert [p.num_points for p in _said(outputs[0])] == list(range(first, first + 8))


def test_a_corrected_frame_is_tracked_before_it_is_clicked() -> None:
    plan = PromptPlan((0,), by_points=True, boxed=(False,), corrected=(0, 2), from_truth=NEVER * 2)
    _, outputs = _track(SimulatedClicks(_truth(4), plan, _clicks()), 4)
    assert [len(output.rounds) for output in outputs] == [8, 1, 8, 1]
    assert outputs[2].rounds[0].prompts is None
    assert outputs[2].recalled
    assert [p.num_points for p in _said(outputs[2])] == list(range(1, 8))
    assert [t for t, output in enumerate(outputs) if output.prompted] == [0, 2]


def test_points_accumulate_and_the_last_logits_are_handed_back_as_they_are() -> None:
    """Not detached and not clamped (SAM 2 release): they may be those of an object judged absent."""
    plan = PromptPlan((0,), by_points=True, boxed=(False,), corrected=(0,), from_truth=NEVER)
    painter, outputs = _track(SimulatedClicks(_truth(1), plan, _clicks()), 1, torch.full((4, 4), ABSENT_LOGIT))
    said = _said(outputs[0])
    assert said[0].previous is None
    for before, after, answer in zip(said, said[1:], outputs[0].rounds, strict=False):
        assert before.points is not None
        assert after.points is not None
        assert torch.equal(after.points[:, :-1], before.points)
        assert after.previous is not None
        assert torch.equal(after.previous, answer.best)
        assert after.previous.min() == answer.logits.min() < -1000
        assert after.previous.requires_grad
    assert painter.picture.requires_grad


def test_clicks_look_for_errors_in_the_upsampled_best_answer() -> None:
    truth = _truth(1)
    picture = torch.full((4, 4), -5.0)
    picture[:, 2:] = 5.0
    full = torch.nn.functional.interpolate(picture[None, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0] > 0
    plan = PromptPlan((0,), by_points=True, boxed=(False,), corrected=(0,), from_truth=((False,) * 60,))
    _, outputs = _track(SimulatedClicks(truth, plan, _clicks()), 1, picture)
    final = outputs[0].final.prompts
    assert final is not None
    assert final.points is not None
    assert final.labels is not None
    for o in range(OBJECTS):
        for (x, y), label in zip(final.points[o, 1:].long().tolist(), final.labels[o, 1:].tolist(), strict=True):
            assert truth[0, o, y, x] != full[y, x]
            assert label == int(truth[0, o, y, x])


def test_clicks_from_truth_ignore_the_answer() -> None:
    truth = _truth(1)
    plan = PromptPlan((0,), by_points=True, boxed=(False,), corrected=(0,), from_truth=((True,) * 30,))
    _, outputs = _track(SimulatedClicks(truth, plan, _clicks()), 1, torch.full((4, 4), 5.0))
    final = outputs[0].final.prompts
    assert final is not None
    assert final.points is not None
    assert final.labels is not None
    assert final.labels.eq(1).all()
    for o in range(OBJECTS):
        assert all(truth[0, o, y, x] for x, y in final.points[o].long().tolist())


def test_the_plans_order_is_the_order_of_the_clip() -> None:
    plan = PromptPlan((0, 6, 3), by_points=False)
    assert tuple(SimulatedClicks(_truth(8), plan, _clicks()).order(8)) == (0, 6, 3, 1, 2, 4, 5, 7)


# --- the replay ---


def test_the_teacher_hears_what_the_student_heard() -> None:
    """The student's points and boxes, but the teacher's own logits to improve on."""
    plan = PromptPlan((0, 3), by_points=True, boxed=(True, False), corrected=(0, 2), from_truth=NEVER * 2)
    people = SimulatedClicks(_truth(5), plan, _clicks())
    _, student = _track(people, 5)
    teacher_itself, teacher = _track(Replay(student), 5, torch.full((4, 4), 7.0))
    for ours, theirs in zip(student, teacher, strict=True):
        assert len(ours.rounds) == len(theirs.rounds)
        assert ours.recalled == theirs.recalled
        for round_, (mine, heard) in enumerate(zip(ours.rounds, theirs.rounds, strict=True)):
            if mine.prompts is None:
                assert heard.prompts is None
                continue
            assert heard.prompts is not None
            assert heard.prompts.points is mine.prompts.points
            assert heard.prompts.labels is mine.prompts.labels
            if mine.prompts.previous is None:
                assert heard.prompts.previous is None
            else:
                assert heard.prompts.previous is not None
                assert torch.equal(heard.prompts.previous, theirs.rounds[round_ - 1].best)
                assert heard.prompts.previous.min() > 6
    assert teacher_itself.attended == 5


def test_masks_given_to_the_student_are_given_to_the_teacher() -> None:
    _, student = _track(GivenMasks(_truth(4), (0, 2)), 4)
    _, teacher = _track(Replay(student), 4)
    for t in (0, 2):
        heard, said = teacher[t].final.prompts, student[t].final.prompts
        assert heard is not None
        assert said is not None
        assert heard.mask is said.mask


def test_the_replay_visits_frames_as_the_student_did() -> None:
    _, student = _track(GivenMasks(_truth(6), (0, 4)), 6)
    assert tuple(Replay(student).order(6)) == (0, 4, 1, 2, 3, 5)
    assert tuple(Replay(student, order=(4, 0, 1, 2, 3, 5)).order(6)) == (4, 0, 1, 2, 3, 5)


# --- scripts and given masks ---


def _one_click(x: float) -> Prompts:
    return Prompts(points=torch.full((OBJECTS, 1, 2), x), labels=torch.ones(OBJECTS, 1, dtype=torch.int64))


def test_a_script_accumulates_its_clicks_and_clamps_the_logits_it_hands_back() -> None:
    _, outputs = _track(Script({0: [_one_click(1), _one_click(2)]}), 2, torch.full((4, 4), -500.0))
    final = outputs[0].final.prompts
    assert final is not None
    assert final.points is not None
    assert final.previous is not None
    assert final.points[0, :, 0].tolist() == [1, 2]
    assert final.previous.eq(-32).all()
    assert not outputs[1].prompted


def test_a_script_that_begins_with_none_corrects_after_tracking() -> None:
    script = Script({0: [_one_click(0)], 3: [None, _one_click(1)], 2: [_one_click(2)]})
    assert tuple(script.order(4)) == (0, 2, 1, 3)
    _, outputs = _track(script, 4)
    assert outputs[3].recalled
    assert [len(output.rounds) for output in outputs] == [1, 1, 1, 2]


def test_a_script_can_be_played_twice() -> None:
    script = Script({0: [_one_click(1), _one_click(2)]})
    first, second = (_track(script, 1)[1] for _ in range(2))
    assert len(first[0].rounds) == len(second[0].rounds) == 2


def test_none_in_the_middle_of_a_script_is_refused() -> None:
    with pytest.raises(ValueError, match="Frame 4 of the script"):
        Script({4: [_one_click(1), None]})


def test_frames_without_a_mask_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Frames \[5\] have no mask: there are masks for frames 0 to 3"):
        GivenMasks(_truth(4), (0, 5))


def test_a_correction_of_a_given_mask_starts_its_own_list_of_points() -> None:
    _, outputs = _track(GivenMasks(_truth(1)), 1)
    said = correct(outputs[0].final, _one_click(1))
    assert said.mask is None
    assert said.num_points == 1
    assert said.previous is not None
