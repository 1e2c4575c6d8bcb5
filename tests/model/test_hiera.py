"""Hiera's blocks: windows, widths and heads of the four released sizes, which no state dict tells."""

from __future__ import annotations

import pytest
import torch
from timm.models.hieradet_sam2 import HieraDet, MultiScaleBlock

from edgetam_pl.model.trunks import build_trunk

# A run of blocks: how many, window in patches (0: all positions), width that comes in, width that goes out, heads.
# Where the width doubles, queries are pooled, and the window is still that of the stage before (SAM 2 release).
Run = tuple[int, int, int, int, int]
BLOCKS: dict[str, list[Run]] = {
    "sam2_hiera_tiny": [
        (1, 8, 96, 96, 1), (1, 8, 96, 192, 2), (1, 4, 192, 192, 2), (1, 4, 192, 384, 4), (1, 14, 384, 384, 4),
        (1, 0, 384, 384, 4), (1, 14, 384, 384, 4), (1, 0, 384, 384, 4), (1, 14, 384, 384, 4), (1, 0, 384, 384, 4),
        (1, 14, 384, 768, 8), (1, 7, 768, 768, 8),
    ],
    "sam2_hiera_small": [
        (1, 8, 96, 96, 1), (1, 8, 96, 192, 2), (1, 4, 192, 192, 2), (1, 4, 192, 384, 4), (3, 14, 384, 384, 4),
        (1, 0, 384, 384, 4), (2, 14, 384, 384, 4), (1, 0, 384, 384, 4), (2, 14, 384, 384, 4), (1, 0, 384, 384, 4),
        (1, 14, 384, 768, 8), (1, 7, 768, 768, 8),
    ],
    "sam2_hiera_base_plus": [
        (2, 8, 112, 112, 2), (1, 8, 112, 224, 4), (2, 4, 224, 224, 4), (1, 4, 224, 448, 8), (6, 14, 448, 448, 8),
        (1, 0, 448, 448, 8), (3, 14, 448, 448, 8), (1, 0, 448, 448, 8), (3, 14, 448, 448, 8), (1, 0, 448, 448, 8),
        (1, 14, 448, 896, 16), (2, 7, 896, 896, 16),
    ],
    "sam2_hiera_large": [
        (2, 8, 144, 144, 2), (1, 8, 144, 288, 4), (5, 4, 288, 288, 4), (1, 4, 288, 576, 8), (14, 16, 576, 576, 8),
        (1, 0, 576, 576, 8), (9, 16, 576, 576, 8), (1, 0, 576, 576, 8), (9, 16, 576, 576, 8), (1, 0, 576, 576, 8),
        (1, 16, 576, 1152, 16), (3, 8, 1152, 1152, 16),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(BLOCKS))
def test_blocks_have_the_released_windows_widths_and_heads(name: str) -> None:
    expected = [run[1:] for run in BLOCKS[name] for _ in range(run[0])]
    blocks = _blocks(name)
    assert [(block.window_size[0], block.dim, block.dim_out, block.attn.num_heads) for block in blocks] == expected
    assert [i for i, block in enumerate(blocks) if block.q_stride is not None] == [
        i for i, (_, before, after, _) in enumerate(expected) if before != after
    ]
    assert {block.norm1.eps for block in blocks} | {block.norm2.eps for block in blocks} == {1e-6}


def _blocks(name: str) -> list[MultiScaleBlock]:
    with torch.device("meta"):
        trunk = build_trunk(name, single=False, drop_path=0.0, args={})
    (body,) = (module for module in trunk.modules() if isinstance(module, HieraDet))
    return [block for block in body.blocks if isinstance(block, MultiScaleBlock)]
