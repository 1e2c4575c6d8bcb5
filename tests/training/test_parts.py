"""Objects in parts, images in chunks, features kept on disk: less memory or time, the same values."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from steps import clips, gradients, module_of, small, taken
from trainings import losses, training

from edgetam_pl.config import LossWeights, PhaseConfig, StageConfig
from edgetam_pl.inference.compiled import compile_parts
from edgetam_pl.training import fit
from edgetam_pl.training.activation_checkpointing import MemoryOptions
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.step import freeze_eval, student_features, teacher_features
from edgetam_pl.training.teacher_cache import TeacherFeatureCache
from edgetam_pl.training.track_batch import Teacher, encode_frames, parts_of
from edgetam_pl.types import ABSENT_LOGIT, VideoBatch


def test_parts_cover_all_objects_once() -> None:
    assert [part.rows for part in parts_of(5, 2)] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert len(parts_of(5, 0)) == len(parts_of(5, 5)) == 1
    assert {part.total for part in parts_of(5, 2)} == {5}


@pytest.mark.parametrize(("points", "num_clips"), [(1.0, 1), (0.0, 1), (1.0, 2)], ids=["clicks", "masks", "two clips"])
def test_f20_objects_in_parts_equal_objects_at_once(points: float, num_clips: int) -> None:
    """Losses, gradients, BatchNorm statistics, words and answers; with a teacher that is asked once a part."""
    batch = clips(3, clips=num_clips)
    whole, parts = module_of(3, points=points), module_of(3, points=points, memory_options=MemoryOptions(object_chunk=2))
    ours, theirs = taken(whole, batch), taken(parts, batch)
    for name, term in ours.losses.items():
        torch.testing.assert_close(theirs.losses[name], term, rtol=1e-4, atol=1e-6, msg=name)
    assert ours.losses["mem"] > 0
    for one, other in zip(ours.student.outputs, theirs.student.outputs, strict=True):
        assert len(one.rounds) == len(other.rounds)
        for answer, same in zip(one.rounds, other.rounds, strict=True):
            torch.testing.assert_close(same.logits, answer.logits, rtol=1e-3, atol=1e-3)
            assert (answer.prompts is None) == (same.prompts is None)
            if answer.prompts is not None and answer.prompts.points is not None and same.prompts is not None:
                assert torch.equal(answer.prompts.points, same.prompts.points)  # type: ignore[arg-type]
    expected, found = gradients(whole, ours), gradients(parts, theirs)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-6, msg=name
        )
    for (name, one), other in zip(whole.student.named_buffers(), parts.student.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_f20_a_part_is_all_that_is_kept_for_the_backward_pass() -> None:
    """Peak memory grows with the part, not with the objects."""
    from edgetam_pl.commands.plan import saved_bytes

    batch = clips(4)
    kept = {}
    for chunk in (0, 1):
        module = module_of(4, memory_options=MemoryOptions(object_chunk=chunk))
        module.student.image_encoder.requires_grad_(False)
        _, kept[chunk] = saved_bytes(lambda module=module: taken(module, batch), set())
    assert kept[1] < kept[0] / 4


def test_objects_in_parts_train_as_objects_at_once_over_two_phases(shards: Path, tmp_path: Path) -> None:
    """The second phase has a frozen encoder. Parts are computed again after the batch was counted: with the same clicks."""
    phases = "{frames:2,steps:2,batch:1,distil:false},{frames:3,steps:2,batch:1,freeze_encoder:true,distil:false}"
    words = ["stage.prompts.point_prob=1", "stage.prompts.corrections=2", "model.dropout=0"]
    for name, chunk in (("whole", 0), ("parts", 1)):
        fit.run(training(shards, tmp_path / name, *words, f"object_chunk={chunk}", phases=phases))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_masks_are_gated_by_presence_only_where_presence_is_trained() -> None:
    """Stage 1 gives presence no weight: an untrained verdict would take the gradient of masks away."""
    batch, found = clips(1), {}
    for weight in (0.0, 1.0):
        module = module_of(1, name="image", weights=LossWeights(presence=weight))
        torch.nn.init.constant_(module.student.mask_decoder.presence_head.layers[-1].bias, -50.0)  # type: ignore[arg-type]
        step = taken(module, batch)
        found[weight] = step.student.outputs[0].rounds[0].logits
        step.losses["dice"].backward()
        slope = module.student.mask_decoder.mask_tokens.weight.grad
        assert (slope is not None and bool(slope.any())) == (weight == 0.0)
    assert (found[1.0] == ABSENT_LOGIT).all()
    assert (found[0.0] > ABSENT_LOGIT).all()


def test_a_frozen_encoder_and_a_teacher_see_images_in_chunks_with_the_same_result() -> None:
    model, frames = small(0).eval(), clips(7).frames
    whole, chunked = encode_frames(model, frames), encode_frames(model, frames, chunk=3)
    for level, same in zip(whole, chunked, strict=True):
        torch.testing.assert_close(same, level, rtol=1e-5, atol=1e-5)
    laid_out = copy.deepcopy(model)
    laid_out.image_encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(encode_frames(laid_out, frames, channels_last=True).f16, whole.f16, rtol=1e-4, atol=1e-4)


def test_f11_a_frozen_encoder_runs_without_autograd() -> None:
    module = module_of(4)
    module.stage.phases[0].freeze_encoder = True
    module.enter(0)
    freeze_eval(module.student, module.stage, module.options.phase)
    features = student_features(module.student, clips(4), module.options)
    assert not features.f16.requires_grad
    assert features.f4 is not None
    assert features.f4.requires_grad, "the projections belong to the decoder, which is trained"


def test_the_teacher_works_under_inference_mode_and_loses_nothing_by_it() -> None:
    module = module_of(3)
    found = taken(module, clips(3))
    assert found.teacher is not None
    assert found.teacher.f16.is_inference()
    assert all(output.f_m.is_inference() for output in found.teacher.outputs)
    assert gradients(module, found)


@pytest.mark.parametrize(
    ("key", "choices"), [("teacher_memory", ("own", "student")), ("teacher_logits", ("own", "student"))]
)
def test_what_the_teacher_hears_is_a_key(key: str, choices: tuple[str, str]) -> None:
    every = []
    for choice in choices:
        module = module_of(4, **{key: choice})
        found = taken(module, clips(4))
        assert found.teacher is not None
        assert len(found.teacher.outputs) == 4
        every.append(found)
    ours, theirs = (float(one.losses["focal"].detach()) for one in every)
    assert ours == pytest.approx(theirs, rel=1e-5), "the student is not concerned"
    logits = [torch.stack([o.final.best for o in one.teacher.outputs]) for one in every if one.teacher is not None]
    assert not torch.allclose(*logits)


def test_images_ask_nothing_of_the_teacher_but_features() -> None:
    module = module_of(1)
    found = taken(module, clips(1, clips=2))
    assert found.teacher is not None
    assert found.teacher.outputs == ()
    assert found.losses["img"] > 0
    assert found.losses["mem"] == 0


def test_kept_features_are_the_teachers_and_a_flipped_image_has_its_own(tmp_path: Path) -> None:
    settings = StageConfig(name="image", phases=[PhaseConfig(frames=1, steps=10)])
    teacher = Teacher(small(1), "toy", "ab" * 32)
    plain = Distillation(small(0), stage=settings, teacher=teacher)
    keeper = replace(teacher, cache=TeacherFeatureCache(tmp_path, teacher=teacher.sha256))
    kept = Distillation(small(0), stage=settings, teacher=keeper)
    asked: list[int] = []
    teacher.model.image_encoder.register_forward_hook(lambda module, given, made: asked.append(len(given[0])))
    batch = clips(1, clips=2)
    flipped = VideoBatch(batch.frames.flip(-1), batch.masks.flip(-1), batch.video_of, batch.keys)
    for some in (batch, flipped):
        expected = teacher_features(teacher, some, plain.options).f16
        asked.clear()
        first, second = (teacher_features(keeper, some, kept.options).f16 for _ in range(2))
        assert asked == [2], "encoded once"
        torch.testing.assert_close(first, expected, rtol=2e-3, atol=1e-3)
        assert torch.equal(first, second)
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    assert not list(tmp_path.rglob("*.partial"))
    other = TeacherFeatureCache(tmp_path, teacher="cd" * 32)
    assert not any(other.folder.glob("*")), "another teacher has other entries"


def test_nothing_compiles_again_as_the_memory_fills() -> None:
    """Graphs are made on the first frames that recall; from then on their number stays, whatever the memory holds."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    module, batch = module_of(6, points=0.0), clips(6)
    module.stage.phases[0].distil = False
    names = list(module.student.state_dict())
    expected = taken(module, batch).losses
    compile_parts(module.student, backend=counter)  # type: ignore[arg-type]
    made: list[int] = []
    blocks = module.student.memory_attention
    blocks.register_forward_hook(lambda *_: made.append(counter.frame_count))
    found = taken(module, batch).losses
    assert list(module.student.state_dict()) == names
    for one, other in zip(expected.values(), found.values(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert len(made) == 6
    assert made[-1] > 0
    assert made[2] == made[-1], made


def test_a_copy_of_the_module_shares_its_teacher() -> None:
    """A moving average copies the module; a teacher that never changes need not be in memory twice."""
    module = module_of(2)
    assert copy.deepcopy(module).teacher is module.teacher
    assert not any("teacher" in key for key in module.state_dict())
