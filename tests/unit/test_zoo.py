"""Every entry of the zoo builds, has the official names, and runs."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from zoo import NAMES, config, lively

from edgetam_pl.build import build_model
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.show import verbs
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.step import step
from edgetam_pl.types import Prompts
from edgetam_pl.weights import official_name

RECORDED = Path(__file__).parents[1] / "parity" / "fixtures" / "state_dicts.json.gz"

PARAMETERS = {
    "edgetam": 13_895_794,
    "sam2.1_hiera_tiny": 38_962_498,
    "sam2.1_hiera_small": 46_060_354,
    "sam2.1_hiera_base_plus": 80_850_178,
    "sam2.1_hiera_large": 224_446_642,
    "sam2_hiera_base_plus": 80_833_666,
    **dict.fromkeys(("efficienttam_s", "efficienttam_s_1", "efficienttam_s_2", "efficienttam_s_512x512"), 34_055_842),
    **dict.fromkeys(("efficienttam_ti", "efficienttam_ti_1", "efficienttam_ti_2", "efficienttam_ti_512x512"), 17_866_018),
}
"""Of the official models, counted on the reference."""

NEW_IN_2_1 = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}

SMALL = [name for name in NAMES if name.startswith(("edgetam", "repvit", "toy", "efficienttam_ti"))]


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_builds_and_all_its_names_translate(name: str) -> None:
    model = _meta(name)
    names = [official_name(ours) for ours in model.state_dict()]
    assert len(set(names)) == len(names)
    assert config(name).name == name


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_an_official_model_has_the_official_size(name: str) -> None:
    assert sum(parameter.numel() for parameter in _meta(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", list(PARAMETERS) + [f"sam2_hiera_{size}" for size in ("tiny", "small", "large")])
def test_an_official_model_has_the_official_names_and_shapes(name: str) -> None:
    ours = {official_name(key): list(tensor.shape) for key, tensor in _meta(name).state_dict().items()}
    assert ours == _official(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMALL])
def test_a_large_entry_runs_at_256_pixels_on_paper(name: str) -> None:
    """On the meta device: shapes through all four verbs with a full bank."""
    with torch.device("meta"):
        model = build_model(config(name, image_size=256))
    assert all(verb.flops > 0 for verb in verbs(model))


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_a_small_entry_tracks_two_objects(name: str) -> None:
    size = 128 if name.startswith("toy") else 256
    model = build_model(config(name, image_size=size)).eval()
    lively(model)
    model.mask_decoder.presence_head.layers[-1].bias.fill_(20.0)
    features = model.encode(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
    clicks = Prompts(torch.tensor([[[9.0, 9.0]], [[100.0, 60.0]]]), torch.ones(2, 1, dtype=torch.long))
    bank = MemoryBank()
    for t in range(3):
        output, bank = step(model, bank, features, t, lambda seen, t=t: clicks if t == 0 and seen is None else None)
        logits = output.final.logits
        assert logits.shape == (2, 3, size // 4, size // 4)
        assert torch.isfinite(logits).all()
        assert float((logits[0] - logits[1]).abs().max()) > 1e-4


@cache
def _meta(name: str) -> TrackAnything:
    with torch.device("meta"):
        return build_model(config(name))


def _official(name: str) -> dict[str, list[int]]:
    recorded = json.loads(gzip.decompress(RECORDED.read_bytes()))
    for suffix in ("_512x512", "_1", "_2"):
        if name.startswith("efficienttam"):
            name = name.removesuffix(suffix)
    if name in recorded:
        return recorded[name]
    newer = recorded[name.replace("sam2_", "sam2.1_")]  # SAM 2 is SAM 2.1 without three tensors
    return {key: shape for key, shape in newer.items() if key not in NEW_IN_2_1}
