"""The mask decoder: which tokens hear what, stability, pointers."""

from __future__ import annotations

import torch

from edgetam_pl.model.mask_decoder import Candidates, MaskDecoder, most_stable

C, GRID = 16, (4, 4)


def test_one_pass_gives_four_masks_a_presence_and_tokens(generator: torch.Generator) -> None:
    found = _decode(_decoder(), generator)
    assert found.logits.shape == (2, 4, 16, 16)
    assert found.iou.shape == (2, 4)
    assert ((found.iou >= 0) & (found.iou <= 1)).all()
    assert found.presence.shape == (2, 1)
    assert found.tokens.shape == (2, 4, C)


def test_an_image_shared_by_objects_equals_a_copy_for_each(generator: torch.Generator) -> None:
    decoder = _decoder()
    image, points, mask = torch.randn(1, C, *GRID), torch.randn(2, 3, C), torch.randn(2, C, *GRID)
    f4, f8 = torch.randn(1, C // 8, 16, 16), torch.randn(1, C // 4, 8, 8)
    pos = torch.randn(16, C)
    shared = decoder(image, pos, points, mask, f4=f4, f8=f8)
    copied = decoder(
        image.expand(2, -1, -1, -1), pos, points, mask, f4=f4.expand(2, -1, -1, -1), f8=f8.expand(2, -1, -1, -1)
    )
    for a, b in zip(shared, copied, strict=True):
        torch.testing.assert_close(a, b)


def test_a_hidden_prompt_slot_changes_nothing(generator: torch.Generator) -> None:
    decoder = _decoder()
    image, points, mask = torch.randn(1, C, *GRID), torch.randn(2, 3, C), torch.randn(1, C, 1, 1)
    pos, noise = torch.randn(16, C), torch.randn(2, 2, C) * 5
    bias = torch.tensor([[0.0, 0.0, 0.0, -1e4, -1e4]])
    padded = decoder(image, pos, torch.cat((points, noise), dim=1), mask, f4=None, f8=None, bias=bias)
    plain = decoder(image, pos, points, mask, f4=None, f8=None)
    for a, b in zip(padded, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_f4_and_f8_reach_the_masks_and_nothing_else(generator: torch.Generator) -> None:
    decoder = _decoder()
    image, points, mask, pos = torch.randn(1, C, *GRID), torch.randn(1, 2, C), torch.zeros(1, C, 1, 1), torch.randn(16, C)
    f4, f8 = torch.randn(1, C // 8, 16, 16), torch.randn(1, C // 4, 8, 8)
    plain = decoder(image, pos, points, mask, f4=f4, f8=f8)
    for levels in ({"f4": f4 + 1, "f8": f8}, {"f4": f4, "f8": f8 * 2}):
        other = decoder(image, pos, points, mask, **levels)
        assert not torch.allclose(other.logits, plain.logits)
        assert torch.equal(other.tokens, plain.tokens)
        assert torch.equal(other.iou, plain.iou)


def test_the_first_block_replaces_the_tokens() -> None:
    """No residual there: with its self-attention silenced, the tokens themselves are forgotten (SAM)."""
    decoder = _decoder()
    attention = decoder.blocks[0].self_attn
    for parameter in attention.out_proj.parameters():
        parameter.data.zero_()
    image, start, pos = torch.randn(1, 16, C), torch.randn(1, 3, C), torch.randn(16, C)
    tokens, _ = decoder.blocks[0](start, image, torch.zeros_like(start), pos, None)
    others, _ = decoder.blocks[0](start * 3 + 1, image, torch.zeros_like(start), pos, None)
    assert torch.equal(tokens, others)


def test_the_pointer_of_an_absent_object_is_replaced_not_mixed(generator: torch.Generator) -> None:
    decoder = _decoder()
    pointers = decoder.point(torch.randn(2, C), torch.tensor([False, True]))
    torch.testing.assert_close(pointers[0], decoder.no_pointer[0])
    assert not torch.allclose(pointers[1], decoder.no_pointer[0])


def test_an_unstable_mask_gives_way_to_the_best_candidate() -> None:
    logits = torch.stack([torch.full((4, 4), value) for value in (9.0, 1.0, 2.0, 3.0)])[None].repeat(3, 1, 1, 1)
    logits[1, 0, 0, 0] = 0.0  # one pixel in sixteen sits between the margins
    logits[2, 0] = -9.0  # empty: stable by definition
    iou = torch.tensor([[0.1, 0.2, 0.9, 0.3]]).repeat(3, 1)
    masks, scores = most_stable(logits, iou)
    assert masks[:, 0, 1, 1].tolist() == [9.0, 2.0, -9.0]
    torch.testing.assert_close(scores, torch.tensor([[0.1], [0.9], [0.1]]))


def _decoder() -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(C, heads=2, mlp=32).eval()


def _decode(decoder: MaskDecoder, generator: torch.Generator) -> Candidates:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return decoder(
        draw(1, C, *GRID),
        draw(16, C),
        draw(2, 3, C),
        draw(2, C, *GRID),
        f4=draw(1, C // 8, 16, 16),
        f8=draw(1, C // 4, 8, 8),
    )
