"""The prompt encoder: what points, boxes and silence become."""

from __future__ import annotations

import torch

from edgetam_pl.model.prompt_encoder import PromptEncoder

S, C = 64, 16


def test_a_padding_point_is_always_appended() -> None:
    encoder = _encoder()
    tokens = encoder.embed_points(torch.rand(2, 3, 2) * S, torch.tensor([[1, 0, -1], [2, 3, 1]]))
    assert tokens.shape == (2, 4, C)
    assert torch.equal(tokens[:, 3], encoder.padding.weight.expand(2, -1))


def test_a_padding_label_hides_its_coordinates() -> None:
    encoder = _encoder()
    here, there = (encoder.embed_points(torch.full((1, 1, 2), at), torch.tensor([[-1]])) for at in (3.0, 50.0))
    assert torch.equal(here, there)
    assert torch.equal(here, encoder.embed_nothing(1))


def test_points_sit_at_pixel_centres_and_carry_their_label() -> None:
    encoder = _encoder()
    for label in range(4):
        token = encoder.embed_points(torch.tensor([[[10.0, 20.0]]]), torch.tensor([[label]]))[0, 0]
        where = encoder.fourier(torch.tensor([10.5, 20.5]) / S)
        torch.testing.assert_close(token, where + encoder.labels[label].weight[0])


def test_silence_is_two_padding_points_per_object() -> None:
    encoder = _encoder()
    assert torch.equal(encoder.embed_nothing(3), encoder.padding.weight.expand(3, 2, -1))


def test_an_earlier_mask_becomes_a_map_and_no_mask_a_constant() -> None:
    encoder = _encoder()
    assert encoder.embed_mask(torch.randn(2, 1, S // 4, S // 4)).shape == (2, C, S // 16, S // 16)
    assert torch.equal(encoder.embed_mask(None)[0, :, 0, 0], encoder.no_mask.weight[0])


def test_integer_coordinates_are_taken_as_pixels() -> None:
    encoder = _encoder()
    whole = encoder.embed_points(torch.tensor([[[10, 20]]]), torch.tensor([[1]]))
    assert torch.equal(whole, encoder.embed_points(torch.tensor([[[10.0, 20.0]]]), torch.tensor([[1]])))


def _encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(C, image_size=S, grid=(S // 16, S // 16))
