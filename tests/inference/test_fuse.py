"""A fused model gives the same answers, and the model it came from is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo import config, lively

from edgetam_pl.build import build_model
from edgetam_pl.inference.fuse import fuse
from edgetam_pl.model.attention import Attention
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.types import EMPTY_RECALL, Decoded, Recall

CASES = {
    "toy": config(),
    "hiera": config(trunk="sam2_hiera_tiny", trunk_args={"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}),
    "single": config(trunk="vit_tiny", neck="single", trunk_args={"dim": 16, "heads": 2, "depth": 3}),
}


@pytest.fixture(scope="module", params=list(CASES))
def model(request: pytest.FixtureRequest) -> TrackAnything:
    torch.manual_seed(0)
    model = build_model(CASES[request.param]).eval()
    lively(model)
    return model


def test_fusing_changes_no_answer(model: TrackAnything) -> None:
    before, after = _answers(model), _answers(fuse(model))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


def test_fusing_twice_changes_nothing_more(model: TrackAnything) -> None:
    once = fuse(model)
    for a, b in zip(_answers(once), _answers(fuse(once)), strict=True):
        assert torch.equal(a, b)


def test_fusing_leaves_the_model_alone(model: TrackAnything) -> None:
    model.train()
    names, before = list(model.state_dict()), [t.clone() for t in model.state_dict().values()]
    fused = fuse(model)
    assert model.training
    assert not model.fused
    assert list(model.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    model.eval()


def test_no_batch_norm_and_no_double_convolution_is_left() -> None:
    fused = fuse(build_model(config()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert isinstance(fused.image_encoder.neck.project_f4, nn.Identity)
    rotated = [b.self_attention for b in fused.memory_attention.blocks] + [
        b.cross_attention for b in fused.memory_attention.blocks
    ]
    assert all(isinstance(a, Attention) and not a.interleaved for a in rotated)


def test_batch_norm_statistics_are_part_of_what_is_fused() -> None:
    """With other statistics the same weights fuse to another model."""
    torch.manual_seed(0)
    model = build_model(config()).eval()
    lively(model)
    before = _answers(fuse(model))[0]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.3)
    assert not torch.allclose(before, _answers(fuse(model))[0], atol=1e-3)


@torch.no_grad()
def _answers(model: TrackAnything) -> list[torch.Tensor]:
    """F16, F_M and logits of a frame that remembers another, without gates that hide differences."""
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    features = model.encode(images)
    first: Decoded = model.decode(model.attend(features.f16, EMPTY_RECALL), features, None, gate=False)
    memory = model.memorize(features.f16, first)
    recall = Recall(((0, memory), (1, memory)), ((1, memory.pointer),))
    f_m = model.attend(features.f16, recall)
    answer = model.decode(f_m, features, None, gate=False)
    levels = [level for level in features if level is not None]
    return [*levels, memory.tokens, f_m, answer.logits, answer.pointer]
