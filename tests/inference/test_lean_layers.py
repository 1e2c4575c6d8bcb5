"""Lean layers compute what the layers compute that they stand for, forward and backward; elsewhere those compute."""

from __future__ import annotations

import copy

import pytest
import torch
from steps import clips, gradients, module_of, small, taken
from torch import nn

from edgetam_pl.inference import lean_layers
from edgetam_pl.inference.lean_layers import LEAN, dropped, use_lean_layers
from edgetam_pl.inference.onednn import use_onednn
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.activation_checkpointing import MemoryOptions


def lean(model: TrackAnything) -> TrackAnything:
    use_lean_layers(model)
    return model


def test_names_parameters_and_mode_stay() -> None:
    model = small(0)
    before, mode = dict(model.named_parameters()), {name: part.training for name, part in model.named_modules()}
    names = list(model.state_dict())
    use_lean_layers(model)
    assert list(model.state_dict()) == names
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert {name: part.training for name, part in model.named_modules()} == mode
    assert {type(part) for part in model.modules()} >= set(LEAN.values())
    assert isinstance(copy.deepcopy(model).image_encoder.neck, lean_layers.LeanFPN)


@pytest.mark.parametrize("layout", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("points", [0.0, 1.0], ids=["masks", "clicks"])
def test_a_step_of_lean_layers_is_the_same_step(points: float, layout: bool) -> None:
    found = []
    for change in (lambda model: model, lean):
        module = module_of(3, points=points, memory_options=MemoryOptions(channels_last=layout))
        change(module.student)
        use_onednn(module.student, trained=True)
        result = taken(module, clips(3))
        found.append((result.losses, gradients(module, result)))
    (plain, plain_slopes), (other, other_slopes) = found
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)
    assert other_slopes.keys() == plain_slopes.keys()
    largest = max(slope.abs().max().item() for slope in plain_slopes.values())
    for name, slope in plain_slopes.items():  # before a norm some slopes are what is left of larger ones
        torch.testing.assert_close(
            other_slopes[name], slope, rtol=2e-3, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(1000, 1001, requires_grad=True)
    y = dropped(x, rate)
    gone = y == 0
    assert gone.float().mean().item() == pytest.approx(rate, abs=0.002)
    assert gone.float().mean(dim=0).std() < 3 * (rate * (1 - rate) / 1000) ** 0.5  # in no column more than in others
    assert y.mean().item() == pytest.approx(x.mean().item(), abs=0.002)
    torch.testing.assert_close(y[~gone], x[~gone] / (1 - rate), rtol=1e-4, atol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope == 0, gone)
    torch.manual_seed(0)
    assert torch.equal(dropped(torch.rand(1000, 1001), rate), y)  # the seed says what is dropped


@pytest.mark.parametrize("strip", [2**16, 100])
def test_dropout_behind_a_softmax_and_a_relu_is_dropout(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is dropped, what is kept has the value and the slope that PyTorch gives it."""
    monkeypatch.setattr(lean_layers, "STRIP", strip)
    torch.manual_seed(0)
    x, slope = torch.randn(3, 50, 24), torch.randn(3, 50, 24)
    limit = lean_layers._limit(0.25)
    pairs = ((lambda x: x.softmax(dim=-1), lean_layers._ThinnedSoftmax), (torch.relu, lean_layers._ThinnedReLU))
    for plain, lean in pairs:
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        found = lean.apply(ours.transpose(0, 1), limit).transpose(0, 1)  # in any order of memory
        kept = (found != 0).float()
        expected = plain(theirs) * kept
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(y, leaf, slope)[0] for y, leaf in ((found, ours), (expected, theirs)))
        )
        assert (kept[plain(x) > 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("rate", [0.0, 1e-9, 1.0])
def test_rates_at_the_ends(rate: float) -> None:
    y = dropped(torch.ones(4, 4), rate)
    assert torch.equal(y, torch.zeros(4, 4) if rate == 1.0 else torch.ones(4, 4))


def test_attention_that_drops_nothing_in_effect_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dropout that keeps everything, memory attention is that of evaluation: sums are projected, not summands."""
    model = lean(small(0, dropout=0.1)).train()
    batch = torch.randn(1, 3, model.image_size, model.image_size)
    features = model.eval().encode(batch)
    memory = model.memorize(features.f16, model.decode(features.f16, features, None))
    from edgetam_pl.types import Recall

    recall = Recall(((0, memory), (1, memory)), ((1, memory.pointer),))
    expected = model.attend(features.f16, recall)
    monkeypatch.setattr(lean_layers, "dropped", lambda x, rate: x)
    monkeypatch.setattr(lean_layers, "_drawn", lambda shape, limit: torch.ones(shape))
    monkeypatch.setattr(lean_layers, "_growth", lambda limit: 1.0)
    found = model.memory_attention.train()(features.f16, recall)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_elsewhere_the_layers_themselves_compute() -> None:
    """Under autocast, and in evaluation dropout."""
    layer = nn.Dropout(0.5)
    use_lean_layers(nn.Sequential(layer))
    assert torch.equal(layer.eval()(torch.ones(9)), torch.ones(9))
    model = small(0).eval()
    images = torch.randn(1, 3, model.image_size, model.image_size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model.encode(images)
        found = lean(copy.deepcopy(model)).encode(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
