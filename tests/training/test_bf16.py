"""bf16 with islands of fp32 (F14), running out of memory (F15), and a step that never makes the host wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import clips, gradients, module_of, taken
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgetam_pl.model.position import rotate, rotation_table
from edgetam_pl.tracking.prompters import draw_plan
from edgetam_pl.training.step import StepOptions

BF16 = torch.bfloat16


def test_f14_losses_and_distances_are_fp32_under_autocast() -> None:
    module, batch = module_of(3), clips(3)
    with torch.autocast("cpu", dtype=BF16):
        losses = taken(module, batch).losses
    assert {term.dtype for term in losses.values()} == {torch.float32}
    assert losses["mem"] > 0


def test_f14_rotations_are_computed_in_fp32() -> None:
    """A rotation by positions up to 63 in bf16 would lose the place: its eight bits cannot tell 60 from 60.2."""
    table = rotation_table((16, 16), 32)
    assert table.cos.dtype == torch.float32
    x = torch.randn(1, 256, 32, generator=torch.Generator().manual_seed(0)).to(BF16)
    with torch.autocast("cpu", dtype=BF16):
        turned = rotate(x, table)
    assert turned.dtype == BF16
    assert torch.equal(turned, rotate(x.float(), table).to(BF16))


@pytest.mark.parametrize("points", [0.0, 1.0], ids=["masks", "clicks"])
def test_f14_a_bf16_step_costs_and_teaches_what_the_fp32_step_does(points: float) -> None:
    exact, rounded = module_of(4, points=points), module_of(4, points=points)
    batch = clips(4)
    expected = taken(exact, batch)
    with torch.autocast("cpu", dtype=BF16):
        found = taken(rounded, batch)
    for name, term in expected.losses.items():
        torch.testing.assert_close(found.losses[name], term, rtol=0.05, atol=0.01, msg=name)
    ours, theirs = gradients(exact, expected), gradients(rounded, found)
    flat = [torch.cat([values[name].flatten() for name in ours]) for values in (ours, theirs)]
    assert F.cosine_similarity(*flat, dim=0) > 0.95


def test_f15_running_out_of_memory_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release tries another attention kernel after any error, and so turns it into a slow path."""
    calls: list[int] = []

    def full(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(F, "scaled_dot_product_attention", full)
    with pytest.raises(torch.OutOfMemoryError):
        taken(module_of(2), clips(2))
    assert len(calls) == 1


class NoWaiting(TorchDispatchMode):
    """Refuses operations whose result the host must look at: on a GPU it would wait for all work before them."""

    WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero", "aten.equal")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if str(func).startswith(self.WAITING):
            raise AssertionError(f"{func} makes the host wait")
        if str(func).startswith("aten.index.Tensor") and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise AssertionError("a boolean index makes the host wait")
        return func(*args, **(kwargs or {}))


def refused(operation: Callable[[], object]) -> bool:
    try:
        with NoWaiting():
            operation()
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("points", [0.0, 1.0], ids=["masks", "clicks"])
def test_a_step_never_makes_the_host_wait(points: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt plans are drawn on the CPU beforehand; all else is tensors until the verdict before the optimiser."""
    assert refused(lambda: torch.ones(2).sum().item())
    assert refused(lambda: torch.ones(2)[torch.tensor([True, False])])
    module, batch = module_of(3, points=points), clips(3, clips=2)
    plan = draw_plan(module.stage.prompts, 3, torch.Generator().manual_seed(0))
    monkeypatch.setattr(StepOptions, "plan", lambda options, num_frames, seeds: plan)
    with NoWaiting():
        losses = taken(module, batch).losses
        losses.weighted(module.stage.weights).total.backward()
        module.watch.note(batch, (), (0, 1, 2), losses, {})
