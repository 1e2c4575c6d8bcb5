"""The flat programs compute what the model's verbs compute, before anything is converted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo import config, lively

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig, ExportConfig, GateConfig, ModelConfig
from edgetam_pl.exporting.adapters import flatten, loop_of, prepared
from edgetam_pl.exporting.client import PackagedTracker
from edgetam_pl.exporting.gate.rollouts import compare_verbs
from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.exporting.parts import PADDING_LABEL, UNUSED_LABEL, Part
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.types import Prompts

VARIANTS: dict[str, dict[str, Any]] = {
    "edgetam": {},
    "no global latents": {"compressor": {"global_latents": 0}},
    "no spatial latents": {"compressor": {"spatial_latents": 0}},
    "other latents": {"compressor": {"global_latents": 8, "spatial_latents": 64, "depth": 1}},
    "latents across": {"compressor": {"self_attention_2d": "paper"}},
    "no self-attention": {"compressor": {"self_attention": False}},
    "pooling": {"compressor": {"kind": "pooling", "pool": 2}},
    "dense": {"compressor": {"kind": "none"}},
    "sam2.1 switches": {"pointer_age": True, "occlusion_embedding": True, "compressor": {"kind": "none"}},
    "512 tokens at 256 px": {"image_size": 256},
}


def made(overrides: dict[str, Any], *, presence: float = 20.0) -> TrackAnything:
    torch.manual_seed(0)
    model = build_model(config(**overrides)).eval()
    lively(model, 0)
    with torch.no_grad():
        last = model.mask_decoder.presence_head.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.fill_(presence)
    return model


def flat(model: TrackAnything, **changes: Any) -> tuple[dict[str, Part], RuntimeSpec]:
    cfg = ExportConfig(**changes)
    return {part.role: part for part in flatten(prepared(model), cfg)}, loop_of(model, cfg)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_model_is_flattened_exactly(name: str) -> None:
    """Clicks, boxes, masks, corrections and full and half-full banks: the sweep's models export like the default."""
    model = made(VARIANTS[name])
    parts, loop = flat(model)
    measures = list(compare_verbs(model, parts, loop, GateConfig(short_frames=5)))
    assert len(measures) > 50
    assert [str(measure) for measure in measures if measure.value > 1e-4] == []


def test_a_model_without_fine_features_is_flattened_exactly() -> None:
    """EfficientTAM: a plain ViT, one level, no F4 and F8; its programs have no feats_s0 and feats_s1."""
    model = made({"trunk": "vit_tiny", "neck": "single", "trunk_args": {"dim": 32, "heads": 2, "depth": 2}, "compressor": {"kind": "none"}})  # fmt: skip  # noqa: E501
    parts, loop = flat(model)
    assert not loop.high_res
    assert [feature.name for feature in parts["image_encoder"].outputs] == ["image_embedding", "vision_features"]
    measures = list(compare_verbs(model, parts, loop, GateConfig(short_frames=5)))
    assert max(measure.value for measure in measures) < 1e-4


def test_absent_objects_have_neither_mask_nor_pointer() -> None:
    model = made({}, presence=-20.0)
    parts, loop = flat(model)
    measures = list(compare_verbs(model, parts, loop, GateConfig(short_frames=5)))
    assert max(measure.value for measure in measures) < 1e-4
    features = torch.randn(1, loop.dim, loop.feature, loop.feature)
    inputs = {"vision_features": features, **_finer(loop)}
    inputs |= {"memory": torch.randn(1, 7, loop.tokens, loop.memory_dim), "memory_age": torch.arange(7).int()[None]}
    inputs |= {"obj_ptrs": torch.randn(1, 16, loop.dim), "obj_ptr_valid": torch.ones(1, 16)}
    found = parts["track_step"].run(inputs)
    assert (found["low_res_mask"] == loop.absent_logit).all()
    torch.testing.assert_close(found["obj_ptr"][0], torch.tensor(loop.absent_pointer))


def test_f31_preparing_leaves_a_model_in_training_alone_and_is_repeatable() -> None:
    """Fused in eval mode, with BatchNorm statistics that matter; twice is the same as once."""
    model = made({}).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    once, twice = prepared(model), prepared(model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in once.modules())
    assert not any(module.training for module in once.modules())
    images = torch.randn(1, 3, 128, 128)
    model.eval()
    with torch.no_grad():
        truth, value, again = model.encode(images), once.encode(images), twice.encode(images)
        third = prepared(once).encode(images)
    for a, b, c, d in zip(truth, value, again, third, strict=True):
        assert a is not None
        assert b is not None
        assert c is not None
        assert d is not None
        assert (a - b).abs().max() < 1e-5 * a.abs().max()
        assert torch.equal(b, c)
        assert torch.equal(b, d)


def test_half_precision_and_training_models_are_exported_in_single_precision_and_eval_mode() -> None:
    parts, _ = flat(made({}).to(torch.bfloat16).train())
    for part in parts.values():
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in part.module.parameters())
        assert not part.module.training


def test_f30_unused_prompt_slots_change_nothing() -> None:
    """One click in one slot, or in eight with seven switched off, whatever their coordinates are."""
    model = made({})
    narrow, loop = flat(model, prompt_slots=2)
    wide, _ = flat(model, prompt_slots=8)
    image = torch.randn(1, loop.dim, loop.feature, loop.feature)
    rest = {"image_embedding": image, **_finer(loop), "mask_input": torch.zeros(1, 1, 32, 32), "has_mask": torch.zeros(1)}
    points = torch.tensor([[[30.0, 40.0], [99.0, 3.0]]])
    labels = torch.tensor([[1, 0]], dtype=torch.int32)
    more = torch.cat((points, 1000 * torch.randn(1, 6, 2)), dim=1)
    unused = torch.cat((labels, torch.full((1, 6), UNUSED_LABEL, dtype=torch.int32)), dim=1)
    padded = torch.cat((labels, torch.full((1, 6), PADDING_LABEL, dtype=torch.int32)), dim=1)
    truth = narrow["prompt_decoder"].run(rest | {"points": points, "labels": labels})
    value = wide["prompt_decoder"].run(rest | {"points": more, "labels": unused})
    other = wide["prompt_decoder"].run(rest | {"points": more, "labels": padded})
    for name in truth:
        torch.testing.assert_close(value[name], truth[name], rtol=1e-5, atol=1e-5)
    assert (other["low_res_masks"] - truth["low_res_masks"]).abs().max() > 0.05  # SAM's padding point is not neutral


def test_f28_what_empty_bank_slots_hold_does_not_matter() -> None:
    """Banks that are not full, t = 1 ... 6."""
    parts, loop = flat(made({}))
    step = parts["track_step"]
    generator = torch.Generator().manual_seed(2)
    f16 = torch.randn(1, loop.dim, 8, 8, generator=generator)
    memory = torch.randn(1, 7, loop.tokens, loop.memory_dim, generator=generator)
    pointers = torch.randn(1, 16, loop.dim, generator=generator)
    for filled in range(1, 7):
        age = torch.tensor([[0, *range(1, filled), *[-1] * (7 - filled)]], dtype=torch.int32)
        valid = torch.tensor([[1.0] * filled + [0.0] * (16 - filled)])
        fixed = {"vision_features": f16, **_finer(loop), "memory_age": age, "obj_ptr_valid": valid}
        noisy_memory, noisy_pointers = memory.clone(), pointers.clone()
        noisy_memory[:, filled:] = 50 * torch.randn(memory[:, filled:].shape, generator=generator)
        noisy_pointers[:, filled:] = -40.0
        a = step.run(fixed | {"memory": memory, "obj_ptrs": pointers})
        b = step.run(fixed | {"memory": noisy_memory, "obj_ptrs": noisy_pointers})
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_order_of_bank_slots_does_not_matter() -> None:
    parts, loop = flat(made({}))
    generator = torch.Generator().manual_seed(2)
    memory = torch.randn(1, 7, loop.tokens, loop.memory_dim, generator=generator)
    age = torch.tensor([[0, 6, 5, 4, 3, 2, 1]], dtype=torch.int32)
    pointers, valid = torch.randn(1, 16, loop.dim, generator=generator), torch.ones(1, 16)
    fixed = {"vision_features": torch.randn(1, loop.dim, 8, 8, generator=generator), **_finer(loop)}
    order, other = torch.randperm(7, generator=generator), torch.randperm(16, generator=generator)
    a = parts["track_step"].run(fixed | {"memory": memory, "memory_age": age, "obj_ptrs": pointers, "obj_ptr_valid": valid})
    shuffled = {"memory": memory[:, order], "memory_age": age[:, order], "obj_ptrs": pointers[:, other]}
    b = parts["track_step"].run(fixed | shuffled | {"obj_ptr_valid": valid})
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-4)


def test_memory_can_be_binarized() -> None:
    model = made({})
    parts, loop = flat(model)
    f16, logits = torch.randn(1, loop.dim, 8, 8), 3 * torch.randn(1, 1, 32, 32)
    from edgetam_pl.types import Decoded

    decoded = Decoded(logits, torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, loop.dim), None)
    for binarize in (False, True):
        with torch.no_grad():
            truth = model.memorize(f16, decoded, binarize=binarize).tokens
        inputs = {"vision_features": f16, "mask_logits": logits, "binarize": torch.tensor([float(binarize)])}
        torch.testing.assert_close(parts["memory_encoder"].run(inputs)["memory"], truth, rtol=1e-4, atol=1e-5)


def test_decoding_and_memorizing_by_parts_is_what_track_step_does_at_once() -> None:
    model = made({})
    parts, loop = flat(model)
    programs = {role: part.run for role, part in parts.items()}
    frames = torch.randint(0, 256, (4, 3, 128, 128), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    from edgetam_pl.exporting.client import RingBank
    from edgetam_pl.tracking.prompters import Script
    from edgetam_pl.tracking.step import rollout

    click = Prompts(torch.tensor([[[60.0, 60.0]]]), torch.tensor([[1]]))
    runs = []
    for fused in (True, False):
        tracker = PackagedTracker(programs, loop, fused=fused)

        def see(t: int, tracker: PackagedTracker = tracker) -> Any:
            return tracker.encode(frames[t : t + 1])

        runs.append(rollout(tracker, see, Script({0: [click]}), num_frames=4, bank=RingBank(loop)))  # type: ignore[arg-type]
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a.final.best, b.final.best, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.final.pointer, b.final.pointer, rtol=1e-4, atol=1e-4)


def test_more_slots_and_more_memories_are_a_matter_of_configuration() -> None:
    parts, loop = flat(made({}), num_memories=9, num_pointers=20, prompt_slots=12)
    shapes = {feature.name: feature.shape for feature in parts["track_step"].inputs}
    assert shapes["memory"][1] == shapes["memory_age"][1] == loop.num_memories == 9
    assert shapes["obj_ptrs"][1] == loop.num_pointers == 20
    assert loop.recent_memories == 6  # there are learned ages for six frames, whatever the number of slots


@pytest.mark.parametrize(("overrides", "message"), [({"spatial_latents": 100}, "must be 0 or a square whose root divides")])
def test_f35_illegal_latents_are_refused_before_anything_is_built(overrides: dict[str, int], message: str) -> None:
    """A sweep that emits such a point fails at once, not after training."""
    with pytest.raises(ValueError, match=message):
        build_model(ModelConfig(image_size=1024, compressor=CompressorConfig(**overrides)))  # type: ignore[arg-type]


def _finer(loop: RuntimeSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    quarter, eighth = loop.size // 4, loop.size // 8
    return {
        "feats_s0": torch.randn(1, loop.dim // 8, quarter, quarter, generator=generator),
        "feats_s1": torch.randn(1, loop.dim // 4, eighth, eighth, generator=generator),
    }
