"""RepViT's branches in fewer passes: equal values, gradients and statistics; elsewhere timm's module computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgetam_pl.inference.lean_repvit import LeanRepVggDw
from edgetam_pl.model.trunks import RepVggDw, build_trunk


def pair(*, legacy: bool = True) -> tuple[RepVggDw, LeanRepVggDw]:
    torch.manual_seed(0)
    plain = RepVggDw(8, 3, legacy)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    lean = copy.deepcopy(plain)
    lean.__class__ = LeanRepVggDw
    return plain, lean  # type: ignore[return-value]


def images(layout: torch.memory_format) -> Tensor:
    return (torch.randn(2, 8, 12, 16) + torch.arange(8)[:, None, None]).contiguous(memory_format=layout)


@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["usual", "eps counts"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "channels first"])
def test_it_is_the_block_twice_in_a_row(layout: torch.memory_format, scale: float) -> None:
    """Against timm's block in double precision; twice, since statistics are remembered."""
    slope = torch.randn(2, 8, 12, 16)
    plain, lean = pair()
    found = []
    for block in (plain.double(), lean):
        nn.init.constant_(block.conv1.c.weight, scale)
        torch.manual_seed(1)
        answers: list[Tensor] = []
        for _ in range(2):
            x = images(layout).to(block.conv.c.weight.dtype).requires_grad_()
            y = block(x)
            answers += [y, *torch.autograd.grad(y, [x, *block.parameters()], slope.to(x))]
        found.append((answers, dict(block.named_buffers())))
    (expected, remembered), (ours, by_ours) = found
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-3, atol=1e-5 * other.abs().max().item() + 1e-3)
    assert by_ours.keys() == remembered.keys()
    for name, buffer in remembered.items():
        torch.testing.assert_close(
            by_ours[name], buffer.to(by_ours[name]), rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_recomputed_pass_leaves_the_statistics_alone() -> None:
    """As `training.activation_checkpointing` asks it of norms: no count, momentum 0."""
    plain, lean = pair()
    x = images(torch.channels_last)
    for block in (plain, lean):
        for norm in (block.conv.bn, block.conv1.bn):
            norm.num_batches_tracked, norm.momentum = None, 0.0
    before = {name: buffer.clone() for name, buffer in lean.named_buffers()}
    torch.testing.assert_close(lean(x), plain(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in lean.named_buffers())


@pytest.mark.parametrize("why", ["evaluation", "one frozen norm", "the newer form"])
def test_elsewhere_the_block_itself_computes(why: str) -> None:
    plain, lean = pair(legacy=why != "the newer form")
    for block in (plain, lean):
        block.train(why != "evaluation")
        if why == "one frozen norm":
            block.conv.bn.eval()
    x = images(torch.channels_last)
    assert torch.equal(lean(x), plain(x))
    for (name, buffer), other in zip(plain.named_buffers(), lean.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_the_trunk_of_edgetam_has_such_blocks() -> None:
    trunk = build_trunk("repvit_m1", single=False, drop_path=0.0, args={})
    blocks = [module for module in trunk.modules() if isinstance(module, RepVggDw)]
    assert blocks
    assert all(block.legacy for block in blocks)
