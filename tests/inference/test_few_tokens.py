"""Attention between an image and few tokens is attention, forward and backward; elsewhere that computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgetam_pl.inference import few_tokens
from edgetam_pl.inference.few_tokens import MANY, FewTokensAttention
from edgetam_pl.inference.lean_layers import use_lean_layers
from edgetam_pl.model.attention import Attention

DIM, HEADS = 64, 4


def pair() -> tuple[Attention, Attention]:
    torch.manual_seed(0)
    plain = Attention(DIM, inner=DIM // 2, key_dim=DIM, heads=HEADS)
    lean = nn.Sequential(copy.deepcopy(plain))
    use_lean_layers(lean, Attention)
    assert type(lean[0]) is FewTokensAttention
    assert list(lean[0].state_dict()) == list(plain.state_dict())
    return plain, lean[0]


def answered(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """The answer, and gradients with respect to everything."""
    wanted = [x.clone().requires_grad_() for x in (q, k, v)]
    answer = attention(*wanted)
    slope = torch.linspace(-1, 1, answer.numel()).view_as(answer)
    return [answer, *torch.autograd.grad(answer, [*wanted, *attention.parameters()], slope)]


@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("asking", ["tokens", "pixels"])
def test_it_is_attention(asking: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lean = pair()
    few, many = torch.randn(2, tokens, DIM), torch.randn(2, MANY, DIM)
    q, k = (few, many) if asking == "tokens" else (many, few)
    expected = answered(copy.deepcopy(plain).double(), *(x.double() for x in (q, k, k + 1)))
    taken: list[str] = []
    for way in ("_asked_by_tokens", "_asked_by_pixels"):
        method = getattr(FewTokensAttention, way)
        monkeypatch.setattr(FewTokensAttention, way, lambda *a, m=method, w=way: (taken.append(w), m(*a))[1])
    found = answered(lean, q, k, k + 1)
    assert taken == [f"_asked_by_{asking}"]
    largest = max(slope.abs().max().item() for slope in expected[1:])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5 * largest)
    assert all(slope.is_contiguous() for slope in found[1:4])  # a sum with another gradient is quick


@pytest.mark.parametrize("why", ["many tokens", "few pixels", "a bias", "another device's layers"])
def test_elsewhere_attention_computes(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lean = pair()
    few = torch.randn(2, 2 * DIM if why == "many tokens" else 8, DIM)
    many = torch.randn(2, MANY // 2 if why == "few pixels" else MANY, DIM)
    bias = torch.randn(1, MANY) if why == "a bias" else None
    if why == "another device's layers":
        monkeypatch.setattr(few_tokens, "suits", lambda x: False)
    assert torch.equal(lean(few, many, many, bias=bias), plain(few, many, many, bias=bias))
