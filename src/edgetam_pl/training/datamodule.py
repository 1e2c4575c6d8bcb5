"""Shards to batches for one phase of training, resumable to the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L

from edgetam_pl.config import DataConfig, PhaseConfig, StageConfig
from edgetam_pl.data.loader import build_loader
from edgetam_pl.types import VideoBatch


class ShardDataModule(L.LightningDataModule):
    """Owns the loader of the current phase. Its state is the number of batches that training has consumed."""

    def __init__(self, data: DataConfig, *, stage: StageConfig, image_size: int, seed: int) -> None:
        super().__init__()
        self.data = data
        self.stage = stage
        self.image_size = image_size
        self.seed = seed
        self.phase_index = 0
        self.first_batch = 0

    def enter(self, index: int) -> None:
        """Begin phase `index` at its first batch."""
        self.phase_index, self.first_batch = index, 0

    @property
    def phase(self) -> PhaseConfig:
        return self.stage.phases[self.phase_index]

    def train_dataloader(self) -> Iterable[VideoBatch]:
        assert self.trainer is not None
        loader = build_loader(
            self.data,
            image_size=self.image_size,
            num_frames=self.phase.frames,
            batch=self.phase.batch,
            max_objects=self.stage.max_objects,
            steps=self.phase.steps * self.phase.accumulate,
            seed=self.seed + 1000 * self.phase_index,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            train=True,
        )
        if self.first_batch:
            loader.load_state_dict({"batches": self.first_batch})
        self.loader = loader
        return _Batches(loader)

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"phase": self.phase_index, "batches": self.trainer.lightning_module.batches_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.phase_index, self.first_batch = state_dict["phase"], state_dict["batches"]


class _Batches:
    """A loader without its state methods. Lightning fetches one batch ahead and would save the loader's own count, which
    runs ahead of what was trained on; the count that matters is the module's."""

    def __init__(self, loader: Iterable[VideoBatch]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[VideoBatch]:
        return iter(self.loader)
