"""Half precision for converters that have none: fp16 weights and arithmetic, angles and norms in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgetam_pl.exporting.half import halved
from edgetam_pl.exporting.parts import Feature, Part


class Places(nn.Module):
    """A place in a wide picture becomes waves, which a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Parameter(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
        self.linear, self.norm = nn.Linear(8, 4), nn.LayerNorm(4)

    def forward(self, place: Tensor, known: Tensor) -> Tensor:
        waves = torch.sin((place / 1024 * 2 - 1) @ self.waves * 6.283)
        return self.norm(self.linear(waves)) * known[:, None].float()


@pytest.fixture
def part() -> Part:
    inputs = (Feature("place", (3, 2), "float32", "pixels"), Feature("known", (3,), "int32", "0 or 1"))
    return Part("Places", "places", Places().eval(), inputs, (Feature("answer", (3, 4), "float", "numbers"),), "a test")


def program(part: Part) -> torch.export.ExportedProgram:
    return halved(torch.export.export(part.module, part.example(), strict=False), part)


def test_weights_that_only_half_precision_reads_are_stored_in_half(part: Part) -> None:
    types = {name.removeprefix("program."): tensor.dtype for name, tensor in program(part).state_dict.items()}
    assert types["linear.weight"] == torch.float16
    assert types["waves"] == torch.float32  # between a coordinate and its sine
    assert types["norm.weight"] == torch.float32


def test_a_pixel_more_is_seen_far_out_in_the_picture(part: Part) -> None:
    half = program(part).module()
    known = torch.ones(3, dtype=torch.int32)
    place = torch.tensor([[1000.0, 900.0], [1000.25, 900.0], [1001.0, 900.0]])  # fp16 steps by half a pixel here
    with torch.no_grad():
        truth, (answer,) = part.module(place, known), half(place, known)
    assert answer.dtype == torch.float16
    torch.testing.assert_close(answer.float(), truth, rtol=0, atol=4e-3)
    assert not torch.equal(answer[0], answer[1])


def test_inputs_and_outputs_have_the_types_that_the_features_declare(part: Part) -> None:
    exported = program(part)
    given = [node.meta["val"].dtype for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs]
    assert given == [torch.float32, torch.int32]
