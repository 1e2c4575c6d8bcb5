"""Leaner blocks of memory attention: the same numbers, and the usual block where they do not apply."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgetam_pl.inference.memory_block import LeanBlock, use_lean_blocks, weighted_sum
from edgetam_pl.inference.products import CHOICE
from edgetam_pl.model.attention import Keys
from edgetam_pl.model.memory_attention import MemoryAttention
from edgetam_pl.model.position import Rotation

GRID, KEYS = (40, 40), 56  # 1600 queries: several blocks, the last one shorter


def attention(**changes: object) -> MemoryAttention:
    torch.manual_seed(0)
    made = MemoryAttention(
        16, 8, grid=GRID, key_grid=(4, 4), non_spatial=12, num_blocks=2, ffn=32, **changes  # type: ignore[arg-type]
    ).eval()  # fmt: skip
    return made.requires_grad_(False)


def keys(rows: int, *, shared_places: bool) -> Keys:
    angle = torch.randn(KEYS, 8)
    pos = torch.randn(1 if shared_places else rows, KEYS, 8)
    return Keys(torch.randn(rows, KEYS, 8), pos, Rotation(angle.cos(), angle.sin()), 2)


@pytest.mark.parametrize("products", ["blas", "onednn"])
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("half_split", [False, True])
def test_the_blocks_give_the_same(
    products: str, images: int, rows: int, half_split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE, products)
    model = attention()
    if half_split:
        for block in model.blocks:
            block.self_attention.half_split()  # type: ignore[union-attr, operator]
            block.cross_attention.half_split()  # type: ignore[union-attr, operator]
    f16, memory = torch.randn(images, 16, *GRID), keys(rows, shared_places=rows == 1)
    expected, given = model.blend(f16, memory), f16.clone()
    use_lean_blocks(model)
    assert all(isinstance(block, LeanBlock) for block in model.blocks)
    torch.testing.assert_close(model.blend(f16, memory), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(f16, given), "the image's features were changed"


@pytest.mark.parametrize("products", ["blas", "onednn"])
def test_a_weighted_sum_is_that_of_attention(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, products)
    q, k, v = torch.randn(1100, 16), torch.randn(70, 16), torch.randn(70, 8)
    torch.testing.assert_close(weighted_sum(q, k, v), (q @ k.T).softmax(dim=-1) @ v, rtol=1e-5, atol=1e-6)


def test_hidden_keys_and_autocast_go_through_the_usual_block() -> None:
    model = attention()
    f16, memory, bias = torch.randn(1, 16, *GRID), keys(1, shared_places=True), torch.zeros(1, KEYS)

    def answers() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.blend(f16, memory)
        return [model.blend(f16, memory, bias), rounded]

    expected = answers()
    use_lean_blocks(model)
    for found, wanted in zip(answers(), expected, strict=True):
        assert torch.equal(found, wanted)


def test_attention_to_landmarks_is_left_alone() -> None:
    model = attention(cross_attention="landmarks")
    use_lean_blocks(model)
    assert not any(isinstance(block, LeanBlock) for block in model.blocks)
