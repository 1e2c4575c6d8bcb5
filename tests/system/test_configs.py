"""Every YAML composes, validates and builds; mistakes are answered in one sentence that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgetam_pl.build import build_model
from edgetam_pl.compose import CONFIGS, EXPERIMENTS, composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training.fit import check

GROUPS = ("model", "stage", "data", "trainer", "logger")


def compose(*words: str) -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=list(words))[0]


@pytest.mark.parametrize(
    "path", sorted(p for g in GROUPS for p in (CONFIGS / g).rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_group_file_composes(path: Path) -> None:
    assert compose(f"{path.parent.name}={path.stem}") is not None


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml")))
def test_every_model_builds_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = build_model(compose(f"model={name}").model)
    assert sum(p.numel() for p in model.parameters()) > 0


@pytest.mark.parametrize("name", sorted(p.stem for p in EXPERIMENTS.glob("*.yaml")))
@pytest.mark.parametrize("scale", sorted(p.stem for p in (EXPERIMENTS / "scales").glob("*.yaml")))
def test_every_experiment_composes_and_builds_at_every_scale(name: str, scale: str) -> None:
    cfg = compose(f"experiment={name}", f"scale={scale}")
    with torch.device("meta"):
        build_model(cfg.model)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "stage").glob("*.yaml")))
def test_every_stage_is_a_possible_one(name: str) -> None:
    check(compose(f"stage={name}"))


def test_focal_and_dice_follow_table_5_not_the_body_text() -> None:
    weights = compose("stage=video").stage.weights
    assert (weights.focal, weights.dice) == (20, 1)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.compresor.kind=none"], "compresor"),
        (["model.memory_blocks=two"], "Integer"),
        (["model=edgtam"], "edgetam"),
        (["experiment=tab9"], "tab9"),
        (["stage.phases=[{frames:8,stps:3}]"], "stps"),
    ],
)
def test_a_mistake_is_named(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        compose(*words)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["stage.name=films"], "stage.name"),
        (["stage.phases=[]"], "phases"),
        (["stage.phases=[{frames:8,steps:10}]"], "warmup"),
        (["stage=image", "stage.phases=[{frames:2,steps:200000}]"], "frames"),
        (["weights=a.pt", "trunk_weights=b.pth"], "give one of them"),
        (["model@teacher=edgetam"], "teacher_weights"),
        (["model@teacher=edgetam", "teacher_weights=t.pt", "teacher.image_size=512"], "512"),
    ],
)
def test_an_impossible_training_is_refused_before_anything_is_built(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check(compose(*words))
