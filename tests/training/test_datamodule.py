"""The data module: saves what was trained on, not what was fetched; says so when the world has changed; augments late."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch
from shard_sets import build
from torch import Tensor

from edgetam_pl.config import AugmentConfig, DataConfig, DataSource, PhaseConfig, StageConfig
from edgetam_pl.training.datamodule import ShardDataModule
from edgetam_pl.types import VideoBatch


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("clips"))


def module(clips: Path, *, rank: int = 0, world: int = 1, where: str = "worker") -> ShardDataModule:
    data = DataConfig([DataSource(name="clips", shards=str(clips))], AugmentConfig(where=where), workers=0)
    stage = StageConfig(phases=[PhaseConfig(frames=3, steps=12, batch=1)], max_objects=2)
    made = ShardDataModule(data, stage=stage, image_size=32, seed=0)
    seen = SimpleNamespace(batches_seen=0)
    made.trainer = cast(Any, SimpleNamespace(global_rank=rank, world_size=world, lightning_module=seen))
    return made


def seen(made: ShardDataModule, count: int) -> list[VideoBatch]:
    """Train on so many batches; as Lightning does, one more is fetched."""
    stream = iter(made.train_dataloader())
    batches = [next(stream) for _ in range(count + 1)][:count]
    cast(Any, made.trainer).lightning_module.batches_seen = count
    return batches


def test_a_resumed_module_goes_on_after_the_last_batch_that_was_trained_on(clips: Path) -> None:
    whole = [batch.keys for batch in module(clips).train_dataloader()]
    first = module(clips)
    assert [batch.keys for batch in seen(first, 5)] == whole[:5]
    second = module(clips)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [batch.keys for batch in second.train_dataloader()] == whole[5:]
    second.enter(0)
    assert [batch.keys for batch in second.train_dataloader()] == whole


def test_another_world_size_is_said_and_nothing_is_drawn_twice(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    ranks = [module(clips, rank=rank, world=2) for rank in range(2)]
    drawn = [batch.keys[0].split("@")[0] for made in ranks for batch in seen(made, 4)]
    alone = module(clips)
    alone.load_state_dict(ranks[0].state_dict())
    with caplog.at_level(logging.WARNING):
        drawn += [batch.keys[0].split("@")[0] for batch in alone.train_dataloader()]
    assert "left at 2 ranks and go on at 1" in caplog.text
    assert len(drawn) == 8 + 8
    assert len(set(drawn)) == 16


class Watching(L.LightningModule):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.given: list[VideoBatch] = []
        self.batches_seen = 0

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        self.given.append(batch)
        self.batches_seen += 1
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_augmentation_left_to_the_device_is_done_before_the_training_step(clips: Path, tmp_path: Path) -> None:
    given = {}
    for where in ("worker", "device"):
        watching = Watching()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(max_steps=4, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        data = module(clips, where=where)
        data.trainer = None
        trainer.fit(watching, datamodule=data)
        given[where] = watching.given
    for worker, device in zip(given["worker"], given["device"]):
        assert type(device) is VideoBatch
        assert worker.keys == device.keys
        assert (worker.frames.int() - device.frames.int()).abs().float().mean() < 2  # the same looks
        assert (worker.masks != device.masks).float().mean() < 0.02


def test_a_place_that_is_neither_worker_nor_device_is_refused(clips: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.augment\.where=gpu: augmentation is done by the worker or on the device"):
        module(clips, where="gpu").train_dataloader()
