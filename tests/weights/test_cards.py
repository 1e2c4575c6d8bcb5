"""The card in a checkpoint: what it tells, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import built, official_state, tiny
from zoo import TINY

from edgetam_pl.build import load_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.weights import contents, load_parts, recorded_config, save_official


def carded(path: Path, image_size: int = 64) -> ModelConfig:
    cfg = replace(TINY, image_size=image_size)
    save_official(
        built(0, image_size), path, {"model": cfg, "training": {"stage": "video"}, "data": {"toy": Path("runs/toy")}}
    )
    return cfg


def test_a_card_does_not_disturb_readers_of_official_files(tmp_path: Path) -> None:
    carded(tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", map_location="cpu", weights_only=True)["model"]  # as SAM 2 and EdgeTAM do
    assert all(torch.equal(read[name], tensor) for name, tensor in official_state(tiny()).items())
    card = contents(tmp_path / "a.pt").card
    assert card is not None
    assert card["model"]["trunk_args"] == {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]}  # plain values
    assert (card["training"], card["data"]) == ({"stage": "video"}, {"toy": "runs/toy"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"compressor": replace(TINY.compressor, self_attention_2d="paper")},
            "model.compressor.self_attention_2d is paper, recorded is released",
        ),
        ({"image_size": 128}, "model.image_size is 128, recorded is 64"),
    ],
    ids=["other self-attention", "other image size"],
)
def test_a_variant_of_equal_shapes_is_not_taken_for_the_recorded_model(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    carded(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_model(replace(TINY, **change), tmp_path / "a.pt")


def test_what_matters_in_training_alone_may_differ_from_the_card(tmp_path: Path) -> None:
    carded(tmp_path / "a.pt")
    load_model(replace(TINY, dropout=0.5, name="mine", cross_attention_bias_init=1.0), tmp_path / "a.pt")


def test_weights_may_be_used_at_another_size_on_purpose(tmp_path: Path) -> None:
    cfg = carded(tmp_path / "a.pt")
    assert load_model(cfg, tmp_path / "a.pt", image_size=128).image_size == 128
    larger = tiny(1, image_size=128)
    load_parts(larger, tmp_path / "a.pt", "equal_shapes")
    assert torch.equal(larger.memory_attention.age, load_model(cfg, tmp_path / "a.pt").memory_attention.age)


def test_the_recorded_model_is_found_without_reading_the_weights(tmp_path: Path) -> None:
    cfg = carded(tmp_path / "a.pt", image_size=128)
    found = recorded_config(tmp_path / "a.pt")
    assert found is not None
    assert replace(found, trunk_args=cfg.trunk_args) == cfg
    save_official(tiny(), tmp_path / "plain.pt")
    assert recorded_config(tmp_path / "plain.pt") is None


def test_a_card_of_a_newer_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    save_official(tiny(), tmp_path / "a.pt", {"model": {"name": "toy", "warp_drive": 9}})
    with pytest.raises(ValueError, match=r"does not know \(Key 'warp_drive'"):
        load_model(TINY, tmp_path / "a.pt")
