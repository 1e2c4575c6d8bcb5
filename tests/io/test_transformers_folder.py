"""Folders of Transformers: the model that config.json describes, and its tensors, from one file or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed, model_config
from edgetam_pl.config import TrainConfig
from edgetam_pl.io.transformers_folder import model_in

transformers = pytest.importorskip("transformers", reason="Transformers writes the folders that are read here")

SAM3 = {
    "vision_config": {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 112, "window_size": 4, "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
    },
    "mask_decoder_config": {"mlp_dim": 64}, "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 64, "image_size": 112,
}  # fmt: skip


@pytest.fixture(scope="module")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam3")
    torch.manual_seed(0)
    transformers.Sam3TrackerVideoModel(transformers.Sam3TrackerVideoConfig(**SAM3)).save_pretrained(folder)
    return folder


def test_a_saved_tracker_of_sam_3_is_built_and_loaded_from_its_folder(sam3: Path) -> None:
    """As Transformers writes it: the tracker's names, or those that it has within the whole SAM 3."""
    cfg = model_in(sam3)
    assert (cfg.name, cfg.image_size, cfg.memory_blocks, cfg.trunk_args["dim"]) == ("sam3_tracker", 112, 1, 32)
    model = weights.load_into(build_model(cfg), sam3, cfg=cfg)
    theirs = transformers.Sam3TrackerVideoModel.from_pretrained(sam3)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert torch.equal(model.memory_encoder.out_proj.weight, theirs.memory_encoder.projection.weight)


def test_a_teacher_may_be_named_by_its_folder_alone(sam3: Path) -> None:
    words = ["data=toy", "model=toy", "model.dim=256", "model.memory_dim=64", f"teacher_weights={sam3}"]
    cfg = composed(TrainConfig, command="train", overrides=words)[0]
    assert cfg.teacher == model_in(sam3)


@pytest.mark.parametrize("name", ["edgetam", "sam2.1_hiera_tiny", "sam2_hiera_base_plus", "sam3_tracker"])
def test_what_transformers_classes_describe_is_the_zoo_s_model(name: str, tmp_path: Path) -> None:
    configs: dict[str, Any] = {
        "edgetam": lambda: _edgetam(),
        "sam2.1_hiera_tiny": lambda: transformers.Sam2VideoConfig(),
        "sam2_hiera_base_plus": lambda: _base_plus(),
        "sam3_tracker": lambda: transformers.Sam3TrackerVideoConfig(),
    }
    configs[name]().save_pretrained(tmp_path)
    found, expected = model_in(tmp_path), model_config(name)
    for key in ("name", "image_size", "trunk", "trunk_args", "neck", "pixels", "memory_blocks", "pointer_age"):
        assert getattr(found, key) == getattr(expected, key), key
    assert found.compressor.kind == expected.compressor.kind
    assert found.occlusion_embedding == expected.occlusion_embedding


def _edgetam() -> Any:
    from edgetam_pl.exporting.transformers_layout import edgetam_config

    return edgetam_config(1024)


def _base_plus() -> Any:
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": 112, "blocks_per_stage": [2, 3, 16, 3]}
    return transformers.Sam2VideoConfig(
        vision_config={"model_type": "sam2_vision_model", "backbone_config": backbone},
        enable_temporal_pos_encoding_for_object_pointers=False,
        enable_occlusion_spatial_embedding=False,
    )


def test_tensors_may_lie_in_several_files(sam3: Path, tmp_path: Path) -> None:
    model = transformers.Sam3TrackerVideoModel.from_pretrained(sam3)
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weights.contents(tmp_path).state.keys() == weights.contents(sam3).state.keys()
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(ValueError, match=r"lacks model-0.*safetensors"):
        weights.contents(tmp_path)


def test_a_folder_of_no_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json"):
        model_in(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(ValueError, match=r"describes a sam2; a tracker is one of edgetam_video, sam2_video"):
        model_in(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no JSON"):
        model_in(tmp_path)
