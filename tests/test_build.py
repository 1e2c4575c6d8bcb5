"""Configurations that describe no model are refused, with what was given, what is legal, and the key to change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from zoo import NAMES, config

from edgetam_pl.build import build_model, validate
from edgetam_pl.config import ModelConfig


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_of_the_zoo_is_legal(name: str) -> None:
    validate(config(name))


def test_the_defaults_are_the_released_edgetam() -> None:
    assert config("edgetam") == ModelConfig()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"trunk": "resnet5000"}, "trunk is resnet5000; use one of repvit_m1, sam2_hiera_tiny"),
    ({"neck": "bifpn"}, "neck is bifpn; use one of fpn, single"),
    ({"neck": "single"}, "neck=single takes one map, repvit_m1 makes four; use neck=fpn, or one of vit_tiny, vit_small"),
    ({"image_size": 1000}, "image_size is 1000; repvit_m1 under neck=fpn needs a multiple of 32, e.g. 992 or 1024"),
    (
        {"image_size": 640},
        "256; .* 40 x 40 memory .*: 1, 4, 16, 25, 64, 100, 400, 1600. Or .* multiple of 256",
    ),
    (
        {"compressor": {"spatial_latents": 100}},
        "spatial_latents is 100; it must be 0 or a square .*: 1, 4, 16, 64, 256, 1024, 4096",
    ),
    ({"compressor": {"spatial_latents": 128}}, "spatial_latents is 128"),
    ({"compressor": {"global_latents": 0, "spatial_latents": 0}}, "Both kinds of latents are 0; keep one"),
    ({"compressor": {"global_latents": -1}}, "global_latents is -1"),
    ({"compressor": {"depth": 0}}, "depth is 0"),
    ({"compressor": {"kind": "qformer"}}, "compressor.kind is qformer; use one of perceiver, pooling, none"),
    ({"compressor": {"self_attention_2d": "both"}}, "self_attention_2d is both; use one of released, paper"),
    ({"compressor": {"kind": "pooling", "pool": 5}}, "pool is 5, which does not divide the 64 x 64 memory .* 1, 2, 4, 8"),
    ({"cross_attention": "sparse"}, "cross_attention is sparse; use one of full, landmarks, landmarks_key"),
    ({"cross_attention": "landmarks"}, "needs compressor.kind=none"),
    ({"dim": 100}, "dim is 100; .* multiple of 8"),
    ({"memory_dim": 48}, "memory_dim is 48; a pointer of dim=256 .* 4, 8, 16, 32, 64, 128, 256"),
    ({"decoder_heads": 3}, "decoder_heads is 3; it must divide dim / 2 = 128: 1, 2, 4, 8"),
    ({"memory_blocks": 0}, "memory_blocks is 0; it must be at least 1"),
    ({"dropout": 1.0}, "dropout is 1.0; it is a share"),
    ({"drop_path": 0.1}, "repvit_m1 has no stochastic depth; set drop_path=0"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(change) for change, _ in REFUSED])
def test_what_cannot_be_built_is_refused_with_a_cure(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(config("edgetam", **change))


@pytest.mark.parametrize("latents", [1, 4, 16, 64, 256, 1024, 4096])
def test_every_square_that_divides_the_grid_builds(latents: int) -> None:
    with torch.device("meta"):
        model = build_model(config("edgetam", compressor={"global_latents": 16, "spatial_latents": latents}))
    assert model.compressor.grid[0] ** 2 == latents
    memory = torch.empty(1, 64, 64, 64, device="meta")
    assert model.compressor(memory).shape == (1, 16 + latents, 64)
