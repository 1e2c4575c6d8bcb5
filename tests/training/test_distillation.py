"""Teacher and student over one batch: whose features an object gets, what both remember, what stays still."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import steps
import torch
from torch import Tensor
from zoo import toy

from edgetam_pl.config import PhaseConfig, StageConfig
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.prompters import GivenMasks, PromptPlan, SimulatedClicks
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.step import StepOptions, teacher_features, teacher_outputs, track_student
from edgetam_pl.training.track_batch import Teacher, encode_frames, per_object, track_objects
from edgetam_pl.types import FrameOutput, ImageFeatures, Recall, VideoBatch
from edgetam_pl.weights import PARTS

S, FRAMES = 64, 6
SMALL = {"image_size": S, "trunk_args": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]}}


def test_an_object_gets_the_features_of_its_own_video() -> None:
    """Rows are counted clip by clip, T of each, not frame by frame."""
    batch = _batch(clips=2, video_of=(0, 1, 1))
    rows = torch.arange(2.0 * FRAMES)[:, None, None, None]
    at = per_object(ImageFeatures(None, None, rows), batch)
    assert [at(t).f16.flatten().tolist() for t in (0, 4)] == [[0, FRAMES, FRAMES], [4, FRAMES + 4, FRAMES + 4]]
    alone = per_object(ImageFeatures(None, None, rows[:FRAMES]), _batch(clips=1, video_of=(0, 0, 0)))
    assert alone(4).f16.flatten().tolist() == [4], "one row, shared by all objects of a single clip"


@torch.no_grad()
def test_clips_in_one_batch_are_tracked_as_each_alone(model: TrackAnything) -> None:
    batch = _batch(clips=2, video_of=(0, 1, 1))
    together = _follow(model, batch)
    for clip, rows in ((0, slice(0, 1)), (1, slice(1, 3))):
        masks = batch.masks[:, rows]
        one = VideoBatch(batch.frames[clip : clip + 1], masks, torch.zeros(masks.shape[1], dtype=torch.long), ("one",))
        for a, b in zip(together, _follow(model, one), strict=True):
            torch.testing.assert_close(a.final.logits[rows], b.final.logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(a.final.pointer[rows], b.final.pointer, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_features_that_are_compared_know_nothing_of_memory(model: TrackAnything) -> None:
    """L_img is on F16 as it leaves the encoder, before the no-memory embedding."""
    batch = _batch(clips=1, video_of=(0,))
    expected = model.encode(model.normalise(batch.frames[0])).f16
    other = toy(**SMALL)
    other.memory_attention.no_memory.fill_(50.0)
    for one in (model, other):
        teacher, options = Teacher(copy.deepcopy(one), "toy", "0" * 64), StepOptions(StageConfig(), PhaseConfig())
        ours = track_student(one, batch, GivenMasks(batch.masks), options).f16
        theirs = teacher_features(teacher, batch, options).f16
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(theirs, expected)


def test_student_and_teacher_recall_the_same_frames_and_pointers() -> None:
    """The student is in training mode and the teacher is not; both read pointers of prompted frames that lie ahead."""
    student, teacher = toy(**SMALL).train(), toy(seed=1, **SMALL)
    options = StepOptions(StageConfig(), PhaseConfig())
    batch = _batch(clips=1, video_of=(0, 0))
    plan = PromptPlan((0, 4), by_points=True, boxed=(False, True), corrected=(0, 2), from_truth=((False,), (True,)))
    ours, theirs = _diary(student), _diary(teacher)
    learnt = track_student(student, batch, SimulatedClicks(batch.masks, plan, torch.Generator().manual_seed(0)), options)
    listener = Teacher(teacher, "toy", "0" * 64)
    taught = teacher_outputs(listener, teacher_features(listener, batch, options), batch, learnt.outputs, options)
    assert ours == theirs
    assert ours[:2] == [([], [], 15), ([], [], 15)], "frames prompted before being seen start afresh"
    assert ours[2] == ([0, 0], [1, -3], FRAMES - 1)  # frame 1 reads frames 0 and 4
    assert ours[3:] == [
        ([0, 0, 1], [2, -2, 1], FRAMES - 1),  # frame 2; corrected, so a prompted one from then on
        ([0, 0, 0, 2], [3, -1, 1, 2], FRAMES - 1),
        ([0, 0, 0, 4, 2], [5, 1, 3, 2, 4], FRAMES - 1),
    ]
    for outputs in (learnt.outputs, taught):
        assert sum(output.recalled for output in outputs) == FRAMES - len(plan.initial)


def test_ranks_draw_one_plan_and_clicks_of_their_own() -> None:
    class OnRank(Distillation):
        rank = 0

        @property
        def global_rank(self) -> int:
            return self.rank

    stage, batch, model = StageConfig(), _batch(clips=1, video_of=(0,)), toy(**SMALL)
    first, second = OnRank(model, stage=stage), OnRank(model, stage=stage)
    second.rank = 1
    plans = []
    for step in range(8):
        first.batches_seen = second.batches_seen = step
        ours, theirs = (one.options.prompter(batch, one.seeds) for one in (first, second))
        assert ours.plan == theirs.plan
        assert ours.generator.initial_seed() != theirs.generator.initial_seed()
        plans.append(ours.plan)
    assert len(set(plans)) > 4, "steps differ from one another"


def test_what_is_frozen_stays_in_evaluation_mode_when_everything_is_told_to_train() -> None:
    """BatchNorm statistics of a frozen encoder, and dropout of the teacher: Lightning calls `train` on the whole module."""
    teacher = Teacher(toy(seed=1, **SMALL).train(), "toy", "0" * 64)
    module = Distillation(toy(**SMALL), stage=StageConfig(phases=[PhaseConfig(freeze_encoder=True)]), teacher=teacher)
    module.enter(0)
    module.train()
    module.on_train_batch_start(_batch(clips=1, video_of=(0,)), 0)
    assert not any(part.training for part in (*module.student.image_encoder.trunk.modules(), *teacher.model.modules()))
    assert module.student.memory_attention.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not {id(part) for part in teacher.model.modules()} & {id(part) for part in module.modules()}


@pytest.fixture(scope="module")
def model() -> TrackAnything:
    return toy(**SMALL)


def _batch(*, clips: int, video_of: tuple[int, ...]) -> VideoBatch:
    draw = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (clips, FRAMES, 3, S, S), generator=draw, dtype=torch.uint8)
    masks = torch.zeros(FRAMES, len(video_of), S, S, dtype=torch.bool)
    for o in range(len(video_of)):
        masks[:, o, 8 * o : 8 * o + 30, 10:40] = True
    return VideoBatch(frames, masks, torch.tensor(video_of), tuple(f"clip{i}" for i in range(clips)))


def _follow(model: TrackAnything, batch: VideoBatch) -> tuple[FrameOutput, ...]:
    return track_objects(model, encode_frames(model, batch.frames), batch, GivenMasks(batch.masks))


def _diary(model: TrackAnything) -> list[tuple[list[int], list[int], int]]:
    """What the model recalls, call by call: ages, distances of pointers, and their divisor."""
    calls: list[tuple[list[int], list[int], int]] = []
    attend: Callable[[Tensor, Recall], Tensor] = model.attend

    def noted(f16: Tensor, recall: Recall) -> Tensor:
        calls.append(([age for age, _ in recall.frames], [age for age, _ in recall.pointers], recall.span))
        return attend(f16, recall)

    model.attend = noted  # type: ignore[method-assign]
    return calls


def test_what_stage_1_trains_is_what_stage_2_takes_over() -> None:
    """Every parameter with a gradient in stage 1 is one of load_parts=images: without memory its own embedding is added."""
    module = steps.module_of(1, name="image")
    found = steps.gradients(module, steps.taken(module, steps.clips(1)))
    moved = {name for name, gradient in found.items() if gradient.abs().max() > 0}
    assert "memory_attention.no_memory" in moved
    assert not [name for name in moved if not name.startswith(PARTS["images"])]
