"""The four verbs of the whole model, on the toy: contracts between its parts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from zoo import toy

from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.step import step
from edgetam_pl.types import ABSENT_LOGIT, EMPTY_RECALL, Decoded, ImageFeatures, Memory, Prompts, Recall

S = 128


@pytest.fixture(scope="module")
def model() -> TrackAnything:
    return toy()


@pytest.fixture(scope="module")
def features(model: TrackAnything) -> ImageFeatures:
    with torch.no_grad():
        return model.encode(torch.randn(1, 3, S, S, generator=torch.Generator().manual_seed(1)))


def test_bytes_become_imagenet_normalised_floats(model: TrackAnything) -> None:
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1).expand(2, 4, 3, S, S)
    found = model.normalise(frames)
    assert found.shape == frames.shape
    expected = (torch.tensor([0.0, 128 / 255, 1.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(found[1, 3, :, 5, 7], expected)


@pytest.mark.parametrize(
    ("points", "labels", "masks"),
    [(None, None, 3), ([[5, 5]], [1], 3), ([[5, 5], [9, 9]], [1, 0], 1), ([[5, 5], [90, 90]], [2, 3], 1)],
    ids=["nothing said", "one click", "two clicks", "a box"],
)
@torch.no_grad()
def test_three_candidates_unless_two_points_or_more_were_given(
    model: TrackAnything, features: ImageFeatures, points: list | None, labels: list | None, masks: int
) -> None:
    prompts = None if points is None else Prompts(torch.tensor([points]).float(), torch.tensor([labels]))
    found = model.decode(features.f16, features, prompts)
    assert found.logits.shape == (1, masks, S // 4, S // 4)
    assert found.iou.shape == (1, masks)
    assert found.pointer.shape == (1, 64)
    assert found.prompts is prompts


@torch.no_grad()
def test_absent_objects_have_no_mask_and_no_pointer(features: ImageFeatures) -> None:
    model = toy()
    model.mask_decoder.presence_head.layers[-1].bias.fill_(-20.0)
    found = model.decode(features.f16, features, None)
    assert (found.logits == ABSENT_LOGIT).all()
    torch.testing.assert_close(found.pointer, model.mask_decoder.no_pointer)
    ungated = model.decode(features.f16, features, None, gate=False)  # as SAM 2's image predictor
    assert (ungated.logits > ABSENT_LOGIT).all()
    assert not torch.allclose(ungated.pointer, model.mask_decoder.no_pointer)


def test_masks_of_absent_objects_teach_the_decoder_nothing(features: ImageFeatures) -> None:
    model = toy()
    model.mask_decoder.presence_head.layers[-1].bias.data.fill_(-20.0)
    model.decode(features.f16, features, None).logits.sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.mask_decoder.parameters())


@torch.no_grad()
def test_the_pointer_belongs_to_the_candidate_that_was_chosen(model: TrackAnything, features: ImageFeatures) -> None:
    prompts = _clicks(4)
    found = model.decode(features.f16, features, prompts)
    tokens = model.prompt_encoder.embed_points(prompts.points, prompts.labels)
    dense = model.prompt_encoder.embed_mask(None)
    raw = model.mask_decoder(features.f16, model.prompt_encoder.image_pos, tokens, dense, f4=features.f4, f8=features.f8)
    for o in range(4):
        chosen = raw.tokens[o, 1 + int(found.choice[o])]
        torch.testing.assert_close(found.pointer[o], model.mask_decoder.pointer_head(chosen))


@torch.no_grad()
def test_dynamic_multimask_changes_masks_but_never_the_pointer(model: TrackAnything, features: ImageFeatures) -> None:
    prompts = Prompts(torch.tensor([[[5.0, 5.0], [90.0, 90.0]]]), torch.tensor([[2, 3]]))
    single = model.decode(features.f16, features, prompts)
    dynamic = model.decode(features.f16, features, prompts, dynamic_multimask=True)
    assert not torch.equal(single.logits, dynamic.logits)  # random weights are unstable
    assert dynamic.logits.shape == single.logits.shape
    assert torch.equal(single.pointer, dynamic.pointer)


@torch.no_grad()
def test_a_given_mask_is_the_answer(model: TrackAnything, features: ImageFeatures) -> None:
    mask = torch.zeros(2, 1, S, S, dtype=torch.bool)
    mask[0, :, 32:64, 32:96] = True  # the second object is absent
    found = model.decode(features.f16, features, Prompts(mask=mask))
    assert found.logits.shape == (2, 1, S // 4, S // 4)
    assert torch.equal(found.logits[0, 0, 9:15, 9:23], torch.full((6, 14), 10.0))
    assert float(found.logits.abs().max()) == 10.0
    assert found.presence.tolist() == [[10.0], [-10.0]]
    assert found.iou.tolist() == [[1.0], [1.0]]
    assert torch.equal(found.pointer[1], model.mask_decoder.no_pointer[0])
    assert not torch.allclose(found.pointer[0], model.mask_decoder.no_pointer[0])


@torch.no_grad()
def test_a_given_mask_in_which_the_decoder_sees_nothing_is_kept_without_a_pointer(features: ImageFeatures) -> None:
    """Presence is read off the mask; the pointer also obeys the decoder's own verdict (SAM 2 release)."""
    model = toy()
    model.mask_decoder.presence_head.layers[-1].bias.fill_(-20.0)
    mask = torch.zeros(1, 1, S, S, dtype=torch.bool)
    mask[..., 40:80, 40:80] = True
    found = model.decode(features.f16, features, Prompts(mask=mask))
    assert found.presence.tolist() == [[10.0]]
    assert float(found.logits.max()) == 10.0
    torch.testing.assert_close(found.pointer, model.mask_decoder.no_pointer)


@torch.no_grad()
def test_the_pointer_of_a_given_mask_is_made_from_the_mask(model: TrackAnything, features: ImageFeatures) -> None:
    left = torch.zeros(1, 1, S, S, dtype=torch.bool)
    left[..., :40] = True
    pointers = [model.decode(features.f16, features, Prompts(mask=mask)).pointer for mask in (left, ~left)]
    assert float((pointers[0] - pointers[1]).abs().max()) > 1e-4


@torch.no_grad()
def test_nothing_of_a_given_mask_depends_on_memory(features: ImageFeatures) -> None:
    """Neither the no-memory embedding nor memory attention reaches its pointer or its memory (SAM 2 release)."""
    model, other = toy(), toy()
    other.memory_attention.no_memory.fill_(50.0)
    mask = torch.zeros(1, 1, S, S, dtype=torch.bool)
    mask[..., 40:80, 40:80] = True
    answers, memories = [], []
    for m in (model, other):
        answers.append(m.decode(m.attend(features.f16, EMPTY_RECALL), features, Prompts(mask=mask)))
        memories.append(m.memorize(features.f16, answers[-1]))
    assert torch.equal(answers[0].pointer, answers[1].pointer)
    assert torch.equal(memories[0].tokens, memories[1].tokens)


@torch.no_grad()
def test_a_given_mask_is_remembered_in_full_resolution(model: TrackAnything, features: ImageFeatures) -> None:
    """A one-pixel line is lost at a quarter of the size, but not to memory."""
    mask = torch.zeros(1, 1, S, S, dtype=torch.bool)
    mask[..., 41, :] = True
    answer = model.decode(features.f16, features, Prompts(mask=mask))
    exact = model.memorize(features.f16, answer)
    coarse = model.memorize(features.f16, answer._replace(prompts=None))
    assert not torch.allclose(exact.tokens, coarse.tokens)


@torch.no_grad()
def test_a_binary_memory_forgets_how_sure_it_was(model: TrackAnything, features: ImageFeatures) -> None:
    answer = model.decode(features.f16, features, _clicks(1))
    doubled = answer._replace(logits=answer.logits * 2)
    sure, surer = (model.memorize(features.f16, a, binarize=True) for a in (answer, doubled))
    torch.testing.assert_close(sure.tokens, surer.tokens)
    unsure, less = (model.memorize(features.f16, a) for a in (answer, doubled))
    assert not torch.allclose(unsure.tokens, less.tokens)


@torch.no_grad()
def test_three_objects_together_equal_three_alone(model: TrackAnything, features: ImageFeatures) -> None:
    clicks = _clicks(3)
    together = _track(model, features, clicks, frames=4)
    assert all(float((a.logits[0] - a.logits[1]).abs().max()) > 1e-2 for a in together)  # memories tell objects apart
    for o in range(3):
        alone = _track(model, features, Prompts(clicks.points[o : o + 1], clicks.labels[o : o + 1]), frames=4)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.logits[o : o + 1], b.logits, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(a.pointer[o : o + 1], b.pointer, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_features_shared_by_objects_equal_a_copy_for_each(model: TrackAnything, features: ImageFeatures) -> None:
    clicks = _clicks(3)
    shared = _track(model, features, clicks, frames=3)
    copied = _track(model, features.of(torch.zeros(3, dtype=torch.long)), clicks, frames=3)
    for a, b in zip(shared, copied, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_model_remembers_nothing_itself(model: TrackAnything, features: ImageFeatures) -> None:
    before = copy.deepcopy(dict(model.named_buffers()))
    first = _track(model, features, _clicks(2), frames=3)
    second = _track(model, features, _clicks(2), frames=3)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.logits, b.logits)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_every_parameter_learns_from_a_corrected_clip_but_the_unused_one() -> None:
    model = toy().train()
    frames = model.encode(torch.randn(2, 3, S, S))
    first = model.decode(model.attend(frames.f16[:1], EMPTY_RECALL), frames.of(slice(0, 1)), _clicks(2))
    mask = torch.zeros(2, 1, S, S, dtype=torch.bool)
    mask[..., 40:80, 40:80] = True
    adopted = model.decode(frames.f16[:1], frames.of(slice(0, 1)), Prompts(mask=mask))
    memories: list[Memory] = [model.memorize(frames.f16[:1], answer) for answer in (first, adopted)]
    recall = Recall(tuple((age, m) for age, m in enumerate(memories)), tuple((1, m.pointer) for m in memories))
    f_m = model.attend(frames.f16[1:], recall)
    corrected = model.decode(f_m, frames.of(slice(1, 2)), _clicks(2)._replace(previous=first.best))
    box = Prompts(torch.rand(2, 2, 2) * S, torch.tensor([[2, 3], [2, 0]]), previous=corrected.best)
    last = model.decode(f_m, frames.of(slice(1, 2)), box)
    absent = model.decode(f_m, frames.of(slice(1, 2)), None)
    model.mask_decoder.presence_head.layers[-1].bias.data.fill_(-99.0)
    gone = model.decode(f_m, frames.of(slice(1, 2)), None)
    model.mask_decoder.presence_head.layers[-1].bias.data.fill_(20.0)
    answers: list[Decoded] = [first, adopted, corrected, last, absent, gone]
    sum(a.logits.mean() + a.iou.mean() + a.presence.mean() + a.pointer.square().mean() for a in answers).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {"memory_attention.no_memory_pos"}
    assert not model.memory_attention.no_memory_pos.requires_grad


def test_bfloat16_autocast_trains_with_finite_gradients() -> None:
    model = toy(dropout=0.1).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.encode(torch.randn(1, 3, S, S))
        answers = _track(model, features, _clicks(2), frames=3)
        loss = sum(answer.logits.float().mean() for answer in answers)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert features.f16.dtype == torch.float32  # as released: the coarse level is added in full precision


def test_bfloat16_autocast_stays_close_to_full_precision() -> None:
    model = toy()
    with torch.no_grad():
        features = model.encode(torch.randn(1, 3, S, S))
        exact = _track(model, features, _clicks(2), frames=3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = _track(model, features, _clicks(2), frames=3)
    scale = float(exact[0].logits.std())
    assert float((exact[0].logits - rounded[0].logits.float()).abs().mean()) < 0.05 * scale


def _clicks(num_objects: int) -> Prompts:
    draw = torch.Generator().manual_seed(num_objects)
    points = torch.rand(num_objects, 1, 2, generator=draw) * S
    return Prompts(points, torch.ones(num_objects, 1, dtype=torch.long))


def _track(model: TrackAnything, features: ImageFeatures, prompts: Prompts, *, frames: int) -> list[Decoded]:
    """The same frame again and again, prompted at the first one."""
    bank, answers = MemoryBank(), []
    for t in range(frames):
        output, bank = step(model, bank, features, t, lambda seen, t=t: prompts if t == 0 and seen is None else None)
        answers.append(output.final)
    return answers
