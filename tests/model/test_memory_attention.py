"""Memory attention: what is gathered, in which order, with which ages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgetam_pl.model.memory_attention import NUM_AGES, MemoryAttention
from edgetam_pl.model.position import Rotation, rotation_table, sine_map
from edgetam_pl.types import EMPTY_RECALL, Memory, Recall

GRID, C, D, TOKENS = (4, 4), 16, 8, 3 + 4


def test_nothing_recalled_adds_the_no_memory_embedding(attention: MemoryAttention, generator: torch.Generator) -> None:
    f16 = torch.randn(1, C, *GRID, generator=generator)
    expected = f16 + attention.no_memory[0, 0][None, :, None, None]
    assert torch.equal(attention(f16, EMPTY_RECALL), expected)
    only_pointers = Recall((), ((1, torch.randn(2, C)),))
    assert torch.equal(attention(f16, only_pointers), expected)


@pytest.mark.parametrize(("age", "row"), [(0, 6), (1, 0), (2, 1), (6, 5)])
def test_prompted_frames_take_the_last_age_and_recent_ones_count_from_the_first(
    attention: MemoryAttention, generator: torch.Generator, age: int, row: int
) -> None:
    with torch.no_grad():
        attention.age.zero_()
        attention.age[row] = 5.0
    memory = _memory(generator)
    keys = attention.gather(Recall(((age, memory),)))
    torch.testing.assert_close(keys.pos, (memory.pos + 5.0).expand(2, -1, -1))


def test_memories_come_in_order_and_pointers_last_in_consecutive_pieces(
    attention: MemoryAttention, generator: torch.Generator
) -> None:
    first, second = _memory(generator), _memory(generator)
    recall = Recall(((0, first), (1, second)), ((3, first.pointer), (1, second.pointer)))
    keys = attention.gather(recall)
    assert torch.equal(keys.tokens[:, :TOKENS], first.tokens)
    assert torch.equal(keys.tokens[:, TOKENS : 2 * TOKENS], second.tokens)
    pieces = keys.tokens[:, 2 * TOKENS :]  # pointer by pointer, C / D pieces each
    assert torch.equal(pieces[:, :2].flatten(1), first.pointer)
    assert torch.equal(pieces[:, 2:].flatten(1), second.pointer)
    assert (keys.pos[:, 2 * TOKENS :] == 0).all()
    assert keys.num_frames == 2


def test_only_tokens_with_a_place_are_rotated(attention: MemoryAttention, generator: torch.Generator) -> None:
    memory = _memory(generator)
    cos, sin = attention.gather(Recall(((0, memory), (1, memory)), ((1, memory.pointer),))).rotation
    assert cos.shape == (2 * TOKENS + 2, C // 2)
    for start in (0, TOKENS):  # the same table for each memory
        assert (cos[start : start + 4] == 1).all()  # three non_spatial tokens, and the one at (0, 0)
        assert (sin[start + 4 : start + TOKENS] != 0).any(dim=1).all()
    assert (cos[2 * TOKENS :] == 1).all()
    assert (sin[2 * TOKENS :] == 0).all()


def test_queries_carry_a_tenth_of_their_position_and_get_it_once(
    attention: MemoryAttention, generator: torch.Generator
) -> None:
    """Each block sees what the block before made; no position is added again (SAM 2 release: pos_enc_at_input)."""
    f16, memory = torch.randn(2, C, *GRID, generator=generator), _memory(generator)
    keys = attention.gather(Recall(((0, memory),)))
    x = (f16 + 0.1 * sine_map(*GRID, C)).flatten(2).transpose(1, 2)
    for block in attention.blocks:
        x = block(x, keys, Rotation(attention.query_cos, attention.query_sin), None)
    expected = attention.norm(x).transpose(1, 2).unflatten(2, GRID)
    torch.testing.assert_close(attention.blend(f16, keys), expected)


def test_keys_and_queries_turn_by_the_integers_of_their_own_grids(attention: MemoryAttention) -> None:
    """The coarser grid of the keys is not stretched over that of the queries (EdgeTAM, released code)."""
    queries, keys = rotation_table(GRID, C), rotation_table((2, 2), C, non_spatial=3)
    assert torch.equal(attention.query_sin, queries.sin)
    assert torch.equal(attention.key_sin, keys.sin)
    assert torch.equal(attention.key_cos, keys.cos)


def test_the_order_of_memories_does_not_matter_to_the_answer(attention: MemoryAttention, generator: torch.Generator) -> None:
    f16 = torch.randn(2, C, *GRID, generator=generator)
    a, b = _memory(generator), _memory(generator)
    one = attention(f16, Recall(((1, a), (2, b)), ((1, a.pointer), (2, b.pointer))))
    other = attention(f16, Recall(((2, b), (1, a)), ((2, b.pointer), (1, a.pointer))))
    torch.testing.assert_close(one, other)


def test_one_image_shared_by_objects_equals_a_copy_for_each(attention: MemoryAttention, generator: torch.Generator) -> None:
    f16, memory = torch.randn(1, C, *GRID, generator=generator), _memory(generator)
    recall = Recall(((0, memory),), ((1, memory.pointer),))
    shared = attention(f16, recall)
    assert shared.shape == (2, C, *GRID)
    torch.testing.assert_close(shared, attention(f16.expand(2, -1, -1, -1), recall))


def test_pointers_know_their_age_when_asked_to(generator: torch.Generator) -> None:
    attention = _attention(pointer_age=True)
    pointer = torch.randn(2, C, generator=generator)
    memory = _memory(generator)

    def positions(age: int, span: int) -> Tensor:
        return attention.gather(Recall(((0, memory),), ((age, pointer),), span)).pos[:, TOKENS:]

    assert positions(3, 7).shape == (2, 2, D)
    assert torch.equal(positions(3, 7)[:, 0], positions(3, 7)[:, 1])  # all pieces of a pointer share it
    torch.testing.assert_close(positions(3, 6), positions(5, 10))
    assert not torch.allclose(positions(3, 7), positions(-3, 7))


def test_an_age_that_was_never_learned_is_refused(attention: MemoryAttention, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=f"age {NUM_AGES}.*0 to 6.*num_memories"):
        attention.gather(Recall(((NUM_AGES, _memory(generator)),)))


def test_a_memory_of_another_model_is_refused(attention: MemoryAttention, generator: torch.Generator) -> None:
    foreign = _memory(generator)._replace(grid=(4, 4))
    with pytest.raises(ValueError, match="reads 7 tokens on"):
        attention.gather(Recall(((0, foreign),)))


def test_banks_of_every_length_run_through_one_compiled_graph(
    attention: MemoryAttention, generator: torch.Generator
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    blend = torch.compile(attention.blend, dynamic=True, backend=count)
    f16, memory = torch.randn(1, C, *GRID, generator=generator), _memory(generator)
    with torch.no_grad():
        for t in range(3, 20):
            frames = tuple((age, memory) for age in range(min(t, 7)))
            keys = attention.gather(Recall(frames, tuple((age, memory.pointer) for age in range(1, min(t, 16)))))
            assert torch.equal(blend(f16, keys), attention.blend(f16, keys))
    assert len(graphs) == 1


@pytest.fixture
def attention() -> MemoryAttention:
    return _attention(pointer_age=False)


def _attention(*, pointer_age: bool) -> MemoryAttention:
    torch.manual_seed(0)
    return MemoryAttention(
        C, D, grid=GRID, key_grid=(2, 2), non_spatial=3, num_blocks=2, ffn=32, pointer_age=pointer_age
    ).eval()


def _memory(generator: torch.Generator) -> Memory:
    """Of two objects: three non_spatial tokens, then four on a 2 x 2 grid."""
    tokens, pos = torch.randn(2, 2, TOKENS, D, generator=generator).unbind(0)
    return Memory(tokens, pos[:1], torch.randn(2, C, generator=generator), (2, 2))
