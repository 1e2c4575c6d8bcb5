"""The memory encoder: how masks enter, and what absence leaves behind."""

from __future__ import annotations

import torch

from edgetam_pl.model.memory_encoder import MemoryEncoder, as_evidence

C, D, S = 32, 16, 64


def test_masks_enter_as_probabilities_stretched_to_plus_and_minus_ten() -> None:
    logits = torch.tensor([-1024.0, -1.0, 0.0, 2.0, 1024.0]).expand(1, 1, 5, 5)
    expected = torch.tensor([-10.0, 20 / (1 + torch.e) - 10, 0.0, 20 / (1 + torch.e**-2) - 10, 10.0])
    torch.testing.assert_close(as_evidence(logits, size=5, binarize=False)[0, 0, 3], expected)
    black_and_white = as_evidence(logits, size=5, binarize=True)
    assert black_and_white[0, 0, 3].tolist() == [-10, -10, -10, 10, 10]


def test_logits_are_enlarged_before_they_become_probabilities() -> None:
    logits = torch.tensor([[-8.0, 8.0]]).expand(1, 1, 2, 2)
    found = as_evidence(logits, size=4, binarize=False)[0, 0, 0]
    torch.testing.assert_close(found, 20 * torch.tensor([-8.0, -4.0, 4.0, 8.0]).sigmoid() - 10)


@torch.no_grad()
def test_a_memory_of_an_absent_object_is_marked_where_the_model_has_a_mark(generator: torch.Generator) -> None:
    """SAM 2.1 adds its embedding to every position; SAM 2 and EdgeTAM have none."""
    f16, mask = torch.randn(1, C, 4, 4, generator=generator), torch.randn(2, 1, S, S, generator=generator) * 10
    visible, hidden = torch.tensor([True, True]), torch.tensor([True, False])
    marked, plain = (MemoryEncoder(C, D, occlusion=occlusion).eval() for occlusion in (True, False))
    assert marked.occluded is not None
    marked.occluded.fill_(3.0)
    torch.testing.assert_close(
        marked(f16, mask, hidden) - marked(f16, mask, visible),
        torch.tensor([0.0, 3.0]).view(2, 1, 1, 1).expand(2, D, 4, 4),
    )
    assert plain.occluded is None
    assert torch.equal(plain(f16, mask, hidden), plain(f16, mask, visible))
