"""What a run is: settings that must not change are named with both values, those that may are not looked at."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import changed_in, training

from edgetam_pl import weights
from edgetam_pl.build import build_model
from edgetam_pl.config import ModelConfig, TrainConfig
from edgetam_pl.training.check import with_accumulation
from edgetam_pl.training.identity import Identity, in_words

PHASES = "{frames:2,steps:4,batch:2,total_batch:4,distil:false},{frames:3,steps:3,batch:1,distil:false}"


@pytest.fixture(scope="module")
def cfg(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return training(shards, tmp_path_factory.mktemp("run"), phases=PHASES)


def identity(cfg: TrainConfig, **changed: Any) -> Identity:
    """Of the configuration with some keys changed: `identity(cfg, stage__optim__lr=1.0)`."""
    return Identity.of(with_accumulation(changed_in(cfg, **changed)))


@pytest.mark.parametrize(
    "changed",
    [
        {"trainer__devices": 2, "trainer__strategy": "ddp", "trainer__enable_progress_bar": False},
        {"stage__phases__0__accumulate": 7},  # it follows from total_batch
        {"out": "elsewhere", "logger__kind": "wandb", "logger__log_every": 3, "export_on_end": True},
        {"data__workers": 0, "data__max_skips": 0.5, "checkpoint_every": 1, "keep_checkpoints": 9},
        {"activation_checkpointing": True, "recompute": ["encode"], "object_chunk": 1, "encoder_chunk": 1},
        {"validation__every": 2, "validation__root": "toy", "accept_changes": True, "dry_run": True},
        {"trainer__precision": 32},  # another name of the same
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_where_a_run_is_computed_and_what_it_shows_may_change(cfg: TrainConfig, changed: dict[str, Any]) -> None:
    second = {"stage__phases__1__total_batch": 2}  # so that devices do not change it
    assert identity(cfg, **second, **changed).changes_since(identity(cfg, **second)) == []


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", 7, "seed: 123 there, 7 now"),
        ("stage__optim__lr", 1.0, "stage.optim.lr: "),
        ("stage__optim__schedule", "rsqrt", "stage.optim.schedule: "),
        ("stage__weights__dice", 3.0, "stage.weights.dice: 5.0 there, 3.0 now"),
        ("stage__max_objects", 1, "stage.max_objects: "),
        ("stage__ema", 0.5, "stage.ema: 0.0 there, 0.5 now"),
        ("stage__frozen", ["memory_encoder"], "stage.frozen: [] there, ['memory_encoder'] now"),
        ("stage__phases__0__steps", 5, "stage.phases[0].steps: 4 there, 5 now"),
        ("stage__phases__1__frames", 4, "stage.phases[1].frames: 3 there, 4 now"),
        ("stage__phases__1__accumulate", 2, "stage.phases[1].total_batch (clips of an optimiser step: batch x ranks x "),
        ("trainer__devices", 2, "stage.phases[1].total_batch (clips of an optimiser step: batch x ranks x accumulate): 1 "),
        ("model__dropout", 0.0, "model.dropout: 0.1 there, 0.0 now"),
        ("model__trunk_args", {"embed_dim": [8, 16, 24, 32]}, "model.trunk_args.depth: [1, 1, 1, 1] there, none now"),
        ("data__sources__0__weight", 9.0, "data.sources[0].weight: "),
        ("data__augment__flip", 0.25, "data.augment.flip: "),
        ("data__shuffle", 5, "data.shuffle: 4 there, 5 now"),
        ("trainer__precision", "bf16-mixed", "trainer.precision: 32-true there, bf16-mixed now"),
        ("trainer__sync_batchnorm", True, "trainer.sync_batchnorm: none there, True now"),
        ("channels_last", False, "channels_last: True there, False now"),
        ("teacher_cache", "kept", "teacher_cache: False there, True now"),
    ],
)
def test_what_decides_values_must_not_change(cfg: TrainConfig, key: str, value: Any, line: str) -> None:
    words = in_words(identity(cfg, **{key: value}).changes_since(identity(cfg)))
    assert f"  {line}" in words
    assert len(words.splitlines()) == 1


def test_files_count_by_their_contents(cfg: TrainConfig, shards: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights.save_official(build_model(cfg.model), tmp_path / f"{seed}" / "weights.pt")
    shutil.copytree(shards / "video", tmp_path / "moved")
    shutil.copytree(tmp_path / "0", tmp_path / "copy")
    before = identity(cfg, weights=str(tmp_path / "0" / "weights.pt"))
    moved = {"weights": str(tmp_path / "copy" / "weights.pt"), "data__sources__0__shards": str(tmp_path / "moved")}
    assert identity(cfg, **moved).changes_since(before) == []
    other = identity(cfg, weights=str(tmp_path / "1" / "weights.pt"), data__sources__0__shards=str(shards / "image"))
    assert [change.key for change in other.changes_since(before)] == ["data.sources[0].shards", "weights"]
    assert str(other.changes_since(before)[1]).startswith("weights: contents ")
    assert str(tmp_path) not in json.dumps(dict(before.settings))


def test_another_model_or_teacher_is_one_line(cfg: TrainConfig) -> None:
    other = ModelConfig()
    words = in_words(identity(cfg, model=other, teacher=other).changes_since(identity(cfg)))
    assert words.splitlines() == [
        "  model.name: toy there, edgetam now",
        "  teacher.name: none there, edgetam now",
    ]


def test_what_was_kept_as_json_compares_equal_and_keys_that_are_new_since_then_are_no_change(cfg: TrainConfig) -> None:
    now = identity(cfg)
    kept = json.loads(json.dumps(dict(now.settings)))
    assert now.changes_since(Identity(kept)) == []
    del kept["stage.distance"], kept["stage.phases[1].lr_factor"], kept["data.augment.where"]
    assert now.changes_since(Identity(kept)) == [], "they had the defaults"
    assert [change.key for change in identity(cfg, stage__distance="cosine").changes_since(Identity(kept))] == [
        "stage.distance"
    ]


def test_a_phase_more_is_a_change(cfg: TrainConfig) -> None:
    phases = [*cfg.stage.phases, replace(cfg.stage.phases[0])]
    changes = identity(cfg, stage__phases=phases).changes_since(identity(cfg))
    assert "  stage.phases[2].steps: none there, 4 now" in in_words(changes).splitlines()
    assert all(change.key.startswith("stage.phases[2].") for change in changes)


def test_every_key_of_the_configuration_counts_or_is_said_to_be_free(cfg: TrainConfig) -> None:
    free = {"out", "dry_run", "accept_changes", "export_on_end", "logger", "launcher", "validation", "checkpoint_every"}
    free |= {"keep_checkpoints", "activation_checkpointing", "recompute", "object_chunk", "encoder_chunk"}
    free |= {"teacher_cache_only", "teacher_cache_precision"}  # whether answers were rounded counts as teacher_cache
    counted = {key.partition(".")[0].partition("[")[0] for key in identity(cfg).settings}
    assert counted == set(asdict(cfg)) - free
