"""A checkpoint as Transformers reads it, and back: every tensor, and nothing that Transformers misses or does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from smallest import SMALL

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.commands.main import main
from edgetam_pl.exporting.transformers_layout import _theirs, save_for_transformers


def test_edgetam_is_read_by_transformers_and_by_us(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    cfg = model_config("edgetam", "model.image_size=256")
    torch.manual_seed(0)
    weights.save_official(build_model(cfg), tmp_path / "edgetam.pt")
    words = ["--model", "edgetam", "model.image_size=256", "--to", "transformers"]
    assert main(["weights", "convert", str(tmp_path / "edgetam.pt"), str(tmp_path / "folder"), *words]) == 0
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["image_size"] == 256

    _, said = transformers.EdgeTamVideoModel.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert not said["mismatched_keys"]

    back = weights.load_into(build_model(cfg), tmp_path / "folder" / "model.safetensors")
    original = weights.load_into(build_model(cfg), tmp_path / "edgetam.pt")
    found = back.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in original.state_dict().items())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    cfg = model_config("toy", *SMALL)
    weights.save_official(build_model(cfg), tmp_path / "toy.pt")
    with pytest.raises(ValueError, match="toy is no EdgeTAM or SAM 2 as Transformers knows it"):
        save_for_transformers(tmp_path / "toy.pt", tmp_path / "folder", cfg)


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
def test_every_released_sam2_has_transformers_names_and_shapes(version: str, size: str) -> None:
    """Without numbers, at full size: each of their tensors is one of ours, and none of ours is left over."""
    pytest.importorskip("transformers")
    cfg = model_config(f"{version}_hiera_{size}")
    with torch.device("meta"):
        ours = {weights.official_name(name): tensor for name, tensor in build_model(cfg).state_dict().items()}
    theirs = _theirs(cfg)
    assert theirs.name == "Sam2VideoModel"
    renamed = weights.to_huggingface(ours, theirs.model.state_dict())
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in theirs.model.state_dict().items()
    }
    back = weights.from_huggingface(renamed)
    assert back.keys() == ours.keys()
