"""Compressors: one contract for all, and what the perceiver's latents may see."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from edgetam_pl.build import COMPRESSORS, build_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.config import CompressorConfig
from edgetam_pl.config.choices import choice
from edgetam_pl.model.compressor import Compressor, Dense, Perceiver2D, PerceiverLayer, Pooling
from edgetam_pl.model.position import sine_map
from edgetam_pl.types import Recall

GRID, D = (8, 8), 16


def test_every_compressor_keeps_one_contract(compressor: Compressor, generator: torch.Generator) -> None:
    """The last h*w tokens lie on the grid; the ones before have no place and no position."""
    tokens = compressor(torch.randn(3, D, *GRID, generator=generator))
    placed = compressor.grid[0] * compressor.grid[1]
    assert tokens.shape == (3, compressor.non_spatial + placed, D)
    assert compressor.pos.shape == (1, *tokens.shape[1:])
    assert (compressor.pos[:, : compressor.non_spatial] == 0).all()
    if placed:
        expected = sine_map(*compressor.grid, D).flatten(1).T
        assert torch.equal(compressor.pos[0, compressor.non_spatial :], expected)
    assert not [name for name in compressor.state_dict() if name.endswith("pos")]


def test_objects_do_not_mix(compressor: Compressor, generator: torch.Generator) -> None:
    memory = torch.randn(3, D, *GRID, generator=generator)
    together = compressor(memory)
    for o in range(3):
        torch.testing.assert_close(together[o : o + 1], compressor(memory[o : o + 1]))


def test_dense_tokens_are_the_positions_row_by_row(generator: torch.Generator) -> None:
    memory = torch.randn(1, D, *GRID, generator=generator)
    assert torch.equal(Dense(D, grid=GRID)(memory)[0, 8 * 3 + 5], memory[0, :, 3, 5])


def test_pooled_tokens_are_means_of_their_windows(generator: torch.Generator) -> None:
    memory = torch.randn(1, D, *GRID, generator=generator)
    tokens = Pooling(D, memory_grid=GRID, pool=4)(memory)
    torch.testing.assert_close(tokens[0, 2 * 1 + 0], memory[0, :, 4:, :4].mean(dim=(1, 2)))


def test_a_spatial_latent_sees_its_window_alone_and_global_ones_see_all(generator: torch.Generator) -> None:
    perceiver = _perceiver()
    memory = torch.randn(1, D, *GRID, generator=generator)
    changed = memory.clone()
    changed[:, 0, 2:4, 6:8] += 3.0  # window (1, 3) of 4 x 4
    moved = (perceiver(changed) - perceiver(memory)).abs().amax(dim=2)[0] > 1e-6
    assert moved[:5].all()
    assert moved[5:].nonzero().flatten().tolist() == [4 * 1 + 3]


def test_as_the_paper_has_it_spatial_latents_tell_one_another(generator: torch.Generator) -> None:
    perceiver = _perceiver(across=True)
    memory = torch.randn(1, D, *GRID, generator=generator)
    changed = memory.clone()
    changed[:, 0, 2:4, 6:8] += 3.0
    assert ((perceiver(changed) - perceiver(memory)).abs().amax(dim=2)[0] > 1e-6).all()


def test_both_readings_of_self_attention_have_the_same_names() -> None:
    assert _perceiver().state_dict().keys() == _perceiver(across=True).state_dict().keys()


def test_positions_reach_global_tokens_and_not_spatial_ones(generator: torch.Generator) -> None:
    perceiver = _perceiver()
    memory = torch.randn(1, D, *GRID, generator=generator)
    before = perceiver(memory)
    perceiver.memory_pos.zero_()
    moved = (perceiver(memory) - before).abs().amax(dim=2)[0] > 1e-6
    assert moved[:5].all()
    assert not moved[5:].any()


def test_positions_join_keys_and_values_after_their_projection(generator: torch.Generator) -> None:
    """The paper writes K(M + p) and V(M + p); the released weights were trained with K(M) + p and V(M) + p."""
    perceiver = Perceiver2D(D, memory_grid=GRID, num_global=5, num_spatial=0, depth=1, self_attention=False, across=False)
    memory = torch.randn(2, D, *GRID, generator=generator)
    layer = perceiver.layers[0]
    assert isinstance(layer, PerceiverLayer)
    attention, pos = layer.attention, sine_map(*GRID, D).flatten(1).T
    k, v = attention.to_kv(attention.norm_x(memory.flatten(2).transpose(1, 2))).chunk(2, dim=-1)
    z = perceiver.global_latents
    assert z is not None
    weights = (attention.to_q(attention.norm_latents(z)) @ (k + pos).transpose(1, 2) / D**0.5).softmax(dim=-1)
    z = z + attention.to_out(weights @ (v + pos))
    torch.testing.assert_close(perceiver(memory), perceiver.norm(z + layer.ffn(z)))


def test_without_self_attention_its_layers_are_gone() -> None:
    names = _perceiver(self_attention=False).state_dict()
    assert not [name for name in names if "self_" in name]
    assert len(names) < len(_perceiver().state_dict())


def test_every_latent_learns() -> None:
    perceiver = _perceiver()
    perceiver(torch.randn(2, D, *GRID)).square().sum().backward()
    assert not [name for name, parameter in perceiver.named_parameters() if parameter.grad is None]


def _perceiver(
    *, num_global: int = 5, num_spatial: int = 16, self_attention: bool = True, across: bool = False
) -> Perceiver2D:
    torch.manual_seed(0)
    return Perceiver2D(
        D, memory_grid=GRID, num_global=num_global, num_spatial=num_spatial, depth=2, self_attention=self_attention,
        across=across,
    )  # fmt: skip


_MAKERS = {
    "none": lambda: Dense(D, grid=GRID),
    "pooling": lambda: Pooling(D, memory_grid=GRID, pool=2),
    "perceiver": _perceiver,
    "global latents alone": lambda: _perceiver(num_spatial=0),
    "spatial latents alone": lambda: _perceiver(num_global=0),
    "as the paper has it": lambda: _perceiver(across=True),
}


@pytest.fixture(params=list(_MAKERS))
def compressor(request: pytest.FixtureRequest) -> Compressor:
    return _MAKERS[request.param]()


@dataclass
class _MoreCompressors(CompressorConfig):
    """What `config.CompressorConfig` would hold."""

    kind: str = choice("perceiver", "pooling", "none", "corners")
    corners: int = 1


class _Corners(Compressor):
    """The first n tokens of the first row."""

    def __init__(self, dim: int, corners: int) -> None:
        super().__init__(dim, grid=(1, corners))

    def forward(self, memory: torch.Tensor) -> torch.Tensor:
        return memory[:, :, 0, : self.grid[1]].transpose(1, 2)


def test_a_compressor_is_added_by_its_class_its_fields_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING, "add a compressor"; a memory that it has made is read by the model it belongs to."""
    monkeypatch.setitem(COMPRESSORS, "corners", lambda cfg, dim, grid: _Corners(dim, cfg.corners))  # type: ignore[attr-defined]
    cfg = replace(model_config("toy"), image_size=64, compressor=_MoreCompressors(kind="corners", corners=3))
    model = build_model(cfg).eval()
    with torch.no_grad():
        features = model.encode(torch.randn(1, 3, 64, 64))
        memory = model.memorize(features.f16, model.decode(features.f16, features, None))
        f_m = model.attend(features.f16, Recall(((1, memory),), (), 15))
    assert (memory.tokens.shape, memory.grid) == ((1, 3, cfg.memory_dim), (1, 3))
    assert f_m.shape == features.f16.shape
    with pytest.raises(ValueError, match=r"compressor\.kind is corner; use one of perceiver, .*Did you mean corners"):
        build_model(replace(cfg, compressor=_MoreCompressors(kind="corner")))
