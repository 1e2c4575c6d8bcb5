"""Mask losses: hand values, the reference's numbers, and the lean form against the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from edgetam_pl.losses import masks as mask_losses
from edgetam_pl.losses.masks import dice, focal, iou, presence, score, upsampled


def _truth(num_objects: int, size: int) -> Tensor:
    return torch.rand(num_objects, size, size, generator=torch.Generator().manual_seed(3)) > 0.7


def test_focal_of_one_undecided_pixel_is_the_hand_value() -> None:
    undecided = torch.zeros(1, 1, 1, 1)
    ln2 = torch.tensor(2.0).log().item()
    assert focal(undecided, torch.ones(1, 1, 1, dtype=torch.bool)).item() == pytest.approx(0.25 * 0.25 * ln2)
    assert focal(undecided, torch.zeros(1, 1, 1, dtype=torch.bool)).item() == pytest.approx(0.75 * 0.25 * ln2)


def test_dice_of_a_perfect_mask_is_nothing_and_of_a_missed_one_nearly_one() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, :2] = True
    logits = torch.where(truth, 100.0, -100.0)[:, None]
    assert dice(logits, truth).item() == pytest.approx(0.0, abs=1e-6)
    assert dice(-logits, truth).item() == pytest.approx(1 - 1 / 17)


def test_iou_of_an_empty_union_is_zero_not_undefined() -> None:
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert iou(torch.full((1, 1, 4, 4), -1.0), nothing).item() == 0.0
    half = nothing.clone()
    half[0, :2] = True
    assert iou(torch.full((1, 1, 4, 4), 1.0), half).item() == 0.5


def test_a_mask_judged_absent_costs_what_the_reference_says() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, :2] = True
    logits = torch.full((1, 1, 4, 4), -1024.0)
    for terms in ((focal(logits, truth), dice(logits, truth)), score(logits, truth)[:2]):
        assert terms[0].item() == pytest.approx(128.0)
        assert terms[1].item() == pytest.approx(0.8888888955)
    assert presence(torch.tensor([[-1.0]]), torch.tensor([True])).item() == pytest.approx(1.3132617474)


@pytest.mark.parametrize("lines", [3, 16], ids=["strips", "at once"])
@pytest.mark.parametrize("small", [8, 16], ids=["upsampled", "same size"])
@pytest.mark.parametrize("candidates", [1, 3])
def test_the_lean_form_equals_the_definition_in_value_and_gradient(
    small: int, candidates: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_losses, "CHUNK_PIXELS_CPU", lines * 16)
    torch.manual_seed(0)
    logits, truth = 4 * torch.randn(3, candidates, small, small), _truth(3, 16)
    logits[0, 0] = -1024.0
    plain, lean = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    full = upsampled(plain, 16)
    expected = (focal(full, truth), dice(full, truth), iou(full, truth))
    found = score(lean, truth)
    for name, theirs, ours in zip(("focal", "dice", "iou"), expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")
    mix = torch.randn(2, 3, candidates)
    (mix[0] * expected[0] + mix[1] * expected[1]).sum().backward()
    (mix[0] * found.focal + mix[1] * found.dice).sum().backward()
    torch.testing.assert_close(lean.grad, plain.grad)
    assert plain.grad is not None
    assert plain.grad[1:].abs().amin(dim=(2, 3)).max() > 0  # not a comparison of zeros


def test_the_lean_form_has_the_gradient_of_its_value() -> None:
    """Against finite differences, in double precision as far as fp32 inputs allow: the formula, not only its twin."""
    torch.manual_seed(1)
    logits, truth = torch.randn(1, 1, 3, 3), _truth(1, 6)
    given = logits.clone().requires_grad_()
    found = score(given, truth)
    (20 * found.focal + found.dice).sum().backward()
    exact = logits.double()

    def value(x: Tensor) -> float:
        full = torch.nn.functional.interpolate(x, size=(6, 6), mode="bilinear", align_corners=False)
        return (20 * focal(full, truth) + dice(full, truth)).item()

    assert given.grad is not None
    for y in range(3):
        for x in range(3):
            nudge = torch.zeros_like(exact)
            nudge[0, 0, y, x] = 1e-5
            slope = (value(exact + nudge) - value(exact - nudge)) / 2e-5
            assert given.grad[0, 0, y, x].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_objects_in_chunks_equal_objects_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(5, 2, 4, 4), _truth(5, 16)
    whole_input, parts_input = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    whole = score(whole_input, truth)
    monkeypatch.setattr(mask_losses, "CHUNK_PIXELS_CPU", 2 * 16**2)
    parts = score(parts_input, truth)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    (whole.focal + whole.dice).sum().backward()
    (parts.focal + parts.dice).sum().backward()
    torch.testing.assert_close(whole_input.grad, parts_input.grad, rtol=0, atol=0)


def test_the_lean_form_keeps_nothing_of_full_resolution() -> None:
    logits, truth = torch.randn(2, 1, 8, 8, requires_grad=True), _truth(2, 32)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        found = score(logits, truth)
        (found.focal + found.dice).sum()
    assert kept
    assert max(kept) <= logits.numel()


def test_iou_carries_no_gradient_and_half_precision_logits_get_theirs() -> None:
    logits = torch.randn(2, 1, 8, 8).bfloat16().requires_grad_()
    found = score(logits, _truth(2, 16))
    assert not found.iou.requires_grad
    assert found.focal.dtype == torch.float32
    found.focal.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("mode", ["fake", "meta"])
def test_a_step_of_shapes_alone_leaves_later_gradients_their_values(mode: str) -> None:
    """`edgetam plan` counts what a step keeps before it measures one."""
    small, large = (5, 20) if mode == "fake" else (6, 24)  # of no other test, so that nothing is kept from before
    logits, truth = torch.randn(2, 1, small, small), torch.rand(2, large, large) > 0.5

    def slope() -> Tensor:
        x = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(x, truth).focal.sum(), x)
        return gradient

    with FakeTensorMode(allow_non_fake_inputs=True) if mode == "fake" else torch.device("meta"):
        slope()
    found = slope()
    assert type(found) is Tensor
    assert found.device.type == "cpu"
    x = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(focal(upsampled(x, large), truth).sum(), x)
    torch.testing.assert_close(found, expected)
