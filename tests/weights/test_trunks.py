"""Pre-trained weights of a trunk alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from zoo import config, lively

from edgetam_pl.build import build_model
from edgetam_pl.weights import load_trunk


@pytest.mark.parametrize("trunk", ["repvit_m1", "sam2_hiera_tiny", "vit_tiny"])
def test_a_classifier_of_timm_starts_the_trunk(tmp_path: Path, trunk: str) -> None:
    sizes = {
        "repvit_m1": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
        "sam2_hiera_tiny": {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        "vit_tiny": {"dim": 16, "heads": 2, "depth": 3},
    }[trunk]
    torch.manual_seed(0)
    model = build_model(config(trunk=trunk, trunk_args=sizes))
    body = model.image_encoder.trunk.body
    prefix = {"repvit_m1": "", "sam2_hiera_tiny": "model.", "vit_tiny": "vit."}[trunk]
    classifier: dict[str, Tensor] = {
        name.removeprefix(prefix).replace("stages_", "stages."): torch.full_like(tensor, 3)
        for name, tensor in body.state_dict().items()
        if not name.startswith("to_")
    }
    torch.save(classifier | {"head.fc.weight": torch.zeros(10, 32)}, tmp_path / "timm.pth")
    load_trunk(model, tmp_path / "timm.pth")
    assert all((tensor == 3).all() for name, tensor in body.state_dict().items() if not name.startswith("to_"))
    del classifier[next(iter(classifier))]
    torch.save(classifier, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match="1 missing"):
        load_trunk(model, tmp_path / "lacking.pth")


@pytest.mark.parametrize(("name", "classifier"), [("edgetam", "repvit_m1"), ("edgetam_vit_tiny", "vit_tiny_patch16_224")])
def test_names_and_shapes_are_those_of_the_real_classifiers(tmp_path: Path, name: str, classifier: str) -> None:
    torch.save(timm.create_model(classifier, pretrained=False).state_dict(), tmp_path / "timm.pth")
    load_trunk(build_model(config(name)), tmp_path / "timm.pth")


def test_a_classifier_in_other_names_is_matched_in_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    renamed = {f"_entry{i}.{name.rsplit('.', 1)[1]}": tensor for i, (name, tensor) in enumerate(theirs.items())}
    torch.save(renamed, tmp_path / "other.pth")
    model = build_model(config("lite", image_size=64, compressor={"kind": "none"}))
    load_trunk(model, tmp_path / "other.pth")
    assert all(torch.equal(t, theirs[name]) for name, t in model.image_encoder.trunk.body.state_dict().items())
    swapped = dict(zip(renamed, reversed(renamed.values()), strict=True))
    torch.save(swapped, tmp_path / "swapped.pth")
    with pytest.raises(ValueError, match="entry by entry"):
        load_trunk(model, tmp_path / "swapped.pth")
    torch.save(dict(list(renamed.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(ValueError, match="cannot be matched in order"):
        load_trunk(model, tmp_path / "short.pth")


def test_a_masked_autoencoder_starts_a_plain_vit(tmp_path: Path) -> None:
    """The layout of MAE's files: below "model", with a class token, a last norm and a decoder that nobody needs."""
    torch.manual_seed(0)
    model = build_model(config("edgetam_vit_tiny"))
    encoder = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).state_dict()
    decoder = {"mask_token": torch.zeros(1, 1, 64), "decoder_blocks.0.norm1.weight": torch.zeros(64)}
    torch.save({"model": encoder | decoder, "epoch": 800}, tmp_path / "mae.pth")
    load_trunk(model, tmp_path / "mae.pth")
    vit = model.image_encoder.trunk.body.get_submodule("vit").state_dict()
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in vit.items())
    # its positions still speak of the class token first, and are resized without it
    assert torch.equal(vit["pos_embed"], encoder["pos_embed"])


def test_safetensors_start_the_trunk_too(tmp_path: Path) -> None:
    model, other = build_model(config()), build_model(config())
    lively(model)
    body = model.image_encoder.trunk.body
    save_file({name.replace("stages_", "stages."): t for name, t in body.state_dict().items()}, tmp_path / "a.safetensors")
    load_trunk(other, tmp_path / "a.safetensors")
    for a, b in zip(body.state_dict().values(), other.image_encoder.trunk.body.state_dict().values(), strict=True):
        assert torch.equal(a, b)
