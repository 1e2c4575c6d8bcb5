"""Attention: shared queries, hidden keys, landmarks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgetam_pl.model.attention import Attention, CrossAttention, Keys, LandmarkAttention, WeightedSum
from edgetam_pl.model.position import Rotation, rotate, rotation_table

GRID, WIDTH, DEPTH = (4, 4), 16, 8
AREA = GRID[0] * GRID[1]


def test_an_image_shared_by_objects_equals_a_copy_for_each(generator: torch.Generator) -> None:
    attention = CrossAttention(WIDTH, key_dim=DEPTH)
    x, keys = torch.randn(1, AREA, WIDTH, generator=generator), _keys(generator, num_frames=2)
    table = rotation_table(GRID, WIDTH)
    shared = attention.read(x, keys, table, None)
    torch.testing.assert_close(shared, attention.read(x.expand(3, -1, -1), keys, table, None))


def test_positions_move_weights_but_not_values(generator: torch.Generator) -> None:
    """With a single key the answer cannot depend on its position."""
    attention = CrossAttention(WIDTH, key_dim=DEPTH)
    x, tokens = torch.randn(1, AREA, WIDTH, generator=generator), torch.randn(1, 1, DEPTH, generator=generator)
    table, still = rotation_table(GRID, WIDTH), Rotation(torch.ones(1, WIDTH // 2), torch.zeros(1, WIDTH // 2))
    a = attention.read(x, Keys(tokens, torch.zeros(1, 1, DEPTH), still, 1), table, None)
    b = attention.read(x, Keys(tokens, torch.full((1, 1, DEPTH), 7.0), still, 1), table, None)
    torch.testing.assert_close(a, b)


def test_hidden_keys_change_nothing(generator: torch.Generator) -> None:
    """A bank padded with noise and a bias of -1e4 equals the bank without."""
    attention = CrossAttention(WIDTH, key_dim=DEPTH)
    x, keys = torch.randn(1, AREA, WIDTH, generator=generator), _keys(generator, num_frames=2)
    table = rotation_table(GRID, WIDTH)
    noise = torch.randn(3, 9, DEPTH, generator=generator) * 5
    padded = Keys(
        torch.cat((keys.tokens, noise), dim=1),
        F.pad(keys.pos, (0, 0, 0, 9)),
        Rotation(F.pad(keys.rotation.cos, (0, 0, 0, 9), value=0.3), F.pad(keys.rotation.sin, (0, 0, 0, 9), value=0.2)),
        2,
    )
    bias = F.pad(torch.zeros(1, keys.tokens.shape[1]), (0, 9), value=-1e4)
    torch.testing.assert_close(attention.read(x, padded, table, bias), attention.read(x, keys, table, None))


def test_half_splitting_changes_no_result_and_is_idempotent(generator: torch.Generator) -> None:
    attention = CrossAttention(WIDTH, key_dim=DEPTH)
    x, keys, table = torch.randn(1, AREA, WIDTH, generator=generator), _keys(generator, 2), rotation_table(GRID, WIDTH)
    before = attention.read(x, keys, table, None)
    attention.half_split()
    once = attention.read(x, keys, table, None)
    attention.half_split()
    torch.testing.assert_close(once, before)
    assert torch.equal(attention.read(x, keys, table, None), once)


def test_several_heads_half_split_within_each_head(generator: torch.Generator) -> None:
    attention = Attention(WIDTH, inner=WIDTH, key_dim=WIDTH, heads=2)
    x, table = torch.randn(2, AREA, WIDTH, generator=generator), rotation_table(GRID, WIDTH // 2)
    before = attention(x, x, x, rotation=(table, table))
    attention.half_split()
    torch.testing.assert_close(attention(x, x, x, rotation=(table, table)), before)


def test_dropout_of_weights_acts_in_training_only(generator: torch.Generator) -> None:
    weigh = WeightedSum(0.5)
    q = torch.randn(1, 1, 8, 4, generator=generator)
    assert not torch.equal(weigh(q, q, q), weigh(q, q, q))
    weigh.eval()
    assert torch.equal(weigh(q, q, q), weigh(q, q, q))


@pytest.mark.parametrize("offset_on_keys", [False, True])
def test_landmarks_follow_their_formula(generator: torch.Generator, offset_on_keys: bool) -> None:
    """Averages after rotation, ln 4 on their logits (EfficientTAM _1) or on each channel of their keys (_2), pointers as
    they are, one softmax."""
    attention = LandmarkAttention(WIDTH, key_dim=DEPTH, grid=GRID, offset_on_keys=offset_on_keys)
    x, keys, table = torch.randn(3, AREA, WIDTH, generator=generator), _keys(generator, 2), rotation_table(GRID, WIDTH)
    q = rotate(attention.q_proj(x)[:, None], table)[:, 0]
    k = rotate(attention.k_proj(keys.tokens + keys.pos)[:, None], keys.rotation)[:, 0]
    pooled, values = _pooled(k), _pooled(attention.v_proj(keys.tokens))
    landmarks = torch.arange(pooled.shape[1]) < 2 * AREA // 4
    if offset_on_keys:
        pooled = pooled + math.log(4) * landmarks[:, None]
    logits = q @ pooled.transpose(1, 2) / math.sqrt(WIDTH)
    if not offset_on_keys:
        logits = logits + math.log(4) * landmarks
    expected = attention.out_proj(logits.softmax(dim=-1) @ values)
    torch.testing.assert_close(attention.read(x, keys, table, None), expected)


def test_landmarks_with_the_offset_on_keys_are_another_model(generator: torch.Generator) -> None:
    on_logits = LandmarkAttention(WIDTH, key_dim=DEPTH, grid=GRID, offset_on_keys=False)
    on_keys = LandmarkAttention(WIDTH, key_dim=DEPTH, grid=GRID, offset_on_keys=True)
    on_keys.load_state_dict(on_logits.state_dict())
    x, table = torch.randn(3, AREA, WIDTH, generator=generator), rotation_table(GRID, WIDTH)
    two, one = _keys(generator, num_frames=2), _keys(generator, num_frames=1)
    assert not torch.allclose(on_logits.read(x, two, table, None), on_keys.read(x, two, table, None))
    plain = CrossAttention(WIDTH, key_dim=DEPTH)
    plain.load_state_dict(on_logits.state_dict())
    for attention in (on_logits, on_keys):  # a single memory is read in full
        assert torch.equal(attention.read(x, one, table, None), plain.read(x, one, table, None))


def test_landmarks_can_be_hidden_by_memory(generator: torch.Generator) -> None:
    for offset_on_keys in (False, True):
        attention = LandmarkAttention(WIDTH, key_dim=DEPTH, grid=GRID, offset_on_keys=offset_on_keys)
        x, keys, table = torch.randn(3, AREA, WIDTH, generator=generator), _keys(generator, 3), rotation_table(GRID, WIDTH)
        bias = torch.zeros(1, keys.tokens.shape[1])
        bias[:, 2 * AREA : 3 * AREA] = -1e4
        shown = [i for i in range(keys.tokens.shape[1]) if not 2 * AREA <= i < 3 * AREA]
        rest = Keys(keys.tokens[:, shown], keys.pos[:, shown], Rotation(*(x[shown] for x in keys.rotation)), 2)
        torch.testing.assert_close(attention.read(x, keys, table, bias), attention.read(x, rest, table, None))


def _keys(generator: torch.Generator, num_frames: int) -> Keys:
    """Memories of three objects, and three pointer tokens."""
    length = num_frames * AREA + 3
    tokens, pos = torch.randn(2, 3, length, DEPTH, generator=generator).unbind(0)
    table = rotation_table(GRID, WIDTH)
    cos = F.pad(table.cos.repeat(num_frames, 1), (0, 0, 0, 3), value=1.0)
    return Keys(tokens, pos, Rotation(cos, F.pad(table.sin.repeat(num_frames, 1), (0, 0, 0, 3))), num_frames)


def _pooled(x: Tensor) -> Tensor:
    """2 x 2 averages of two memories, then the pointer tokens, spelled out."""
    maps = x[:, : 2 * AREA].unflatten(1, (2, GRID[0] // 2, 2, GRID[1] // 2, 2))
    return torch.cat((maps.mean(dim=(3, 5)).flatten(1, 3), x[:, 2 * AREA :]), dim=1)
