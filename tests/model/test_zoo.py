"""Every entry of the zoo builds, has the official names, and runs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zoo import NAMES, config, lively

from edgetam_pl.build import build_model
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.step import step
from edgetam_pl.types import Prompts
from edgetam_pl.weights import load_into, official_name, save_official

RECORDED = Path(__file__).parents[1] / "parity" / "fixtures" / "state_dicts.json.gz"

PARAMETERS = {
    "edgetam": 13_895_794,
    "sam2.1_hiera_tiny": 38_962_498,
    "sam2.1_hiera_small": 46_060_354,
    "sam2.1_hiera_base_plus": 80_850_178,
    "sam2.1_hiera_large": 224_446_642,
    "sam2_hiera_base_plus": 80_833_666,
    "sam3_tracker": 465_782_146,  # tests/parity/test_sam3.py compares its names
    **dict.fromkeys(("efficienttam_s", "efficienttam_s_1", "efficienttam_s_2", "efficienttam_s_512x512"), 34_055_842),
    **dict.fromkeys(("efficienttam_ti", "efficienttam_ti_1", "efficienttam_ti_2", "efficienttam_ti_512x512"), 17_866_018),
}
"""Of the official models, counted on the reference."""

NEW_IN_2_1 = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_builds_and_all_its_names_translate(name: str) -> None:
    model = _meta(name)
    names = [official_name(ours) for ours in model.state_dict()]
    assert len(set(names)) == len(names)
    assert config(name).name == name


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_an_official_model_has_the_official_size(name: str) -> None:
    assert sum(parameter.numel() for parameter in _meta(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name", sorted({*PARAMETERS, "sam2_hiera_tiny", "sam2_hiera_small", "sam2_hiera_large"} - {"sam3_tracker"})
)
def test_an_official_model_has_the_official_names_and_shapes(name: str) -> None:
    ours = {official_name(key): list(tensor.shape) for key, tensor in _meta(name).state_dict().items()}
    assert ours == _official(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sam3_tracker"])  # two gigabytes; toy_sam3 stands for it
def test_an_entry_tracks_and_goes_to_the_official_layout_and_back(name: str, tmp_path: Path) -> None:
    """At 256 px, three frames of two objects; the models of the toy run have a size of their own. Of SAM 2's trunks all
    blocks, each narrower: half a gigabyte of numbers says no more than a few megabytes."""
    size = 112 if name == "toy_sam3" else 128 if name.startswith("toy") else 256
    cfg = config(name, image_size=size)
    model = build_model(replace(cfg, trunk_args={"embed_dim": 16}) if "hiera" in cfg.trunk else cfg).eval()
    lively(model)
    with torch.no_grad():
        model.get_parameter("mask_decoder.presence_head.layers.2.bias").fill_(20.0)
    for masks in _tracked(model, frames=3):
        assert torch.isfinite(masks).all()
        assert float((masks[0] - masks[1]).abs().max()) > 1e-4

    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_official(model, tmp_path / "weights.pt")
    for tensor in model.state_dict().values():
        tensor.zero_()
    load_into(model, tmp_path / "weights.pt")
    (tmp_path / "weights.pt").unlink()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def _tracked(model: TrackAnything, *, frames: int) -> Iterator[Tensor]:
    """Masks (2, 3, S/4, S/4) of two objects, each clicked on frame 0, on one image again and again."""
    size = model.image_size
    clicks = Prompts(torch.tensor([[[9.0, 9.0]], [[100.0, 60.0]]]), torch.ones(2, 1, dtype=torch.long))
    bank = MemoryBank()
    with torch.inference_mode():
        features = model.encode(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)))
        for t in range(frames):
            output, bank = step(model, bank, features, t, lambda seen, t=t: clicks if t == 0 and seen is None else None)
            assert output.final.logits.shape == (2, 3, 4 * model.grid[0], 4 * model.grid[1])
            yield output.final.logits


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
