"""Shards to batches for one phase of training, resumable to the optimiser step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import lightning as L

from edgetam_pl.config import DataConfig, PhaseConfig, StageConfig
from edgetam_pl.data.device import augmented
from edgetam_pl.data.loader import ShardLoader, build_loader
from edgetam_pl.training.validation import Validation
from edgetam_pl.types import VideoBatch

T = TypeVar("T")


class ShardDataModule(L.LightningDataModule):
    """Owns the loader of the current phase. Its state is the optimiser steps that were taken and the samples that they have
    seen: how many batches that is depends on the number of ranks."""

    def __init__(
        self,
        data: DataConfig,
        *,
        stage: StageConfig,
        image_size: int,
        seed: int,
        validation: Validation | None = None,
        views: Sequence[int] = (),
    ) -> None:
        """`validation` has the clips that the trainer validates on; `views` are the other sizes at which teachers look."""
        super().__init__()
        self.validation = validation
        self.data = data
        self.stage = stage
        self.image_size = image_size
        self.seed = seed
        self.views = tuple(views)
        self.phase_index = 0
        self.loader: ShardLoader | None = None
        self.resume: dict[str, Any] | None = None  # where the phase was left

    def enter(self, index: int) -> None:
        """Begin phase `index` at its first batch."""
        self.phase_index, self.resume = index, None

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
            accumulate=self.phase.accumulate,
            seed=self.seed + 1000 * self.phase_index,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            train=True,
            views=self.views if self.phase.distil else (),
        )
        if self.resume is not None:
            loader.load_state_dict(self.resume)
        self.loader = loader
        return _Iterated(loader)

    def val_dataloader(self) -> Iterable[int]:
        """Indices of this rank's clips; the module's `Validation` has the clips themselves."""
        assert self.trainer is not None
        if self.validation is None:
            return []
        return _Iterated(self.validation.indices(self.trainer.global_rank, self.trainer.world_size))

    def on_after_batch_transfer(self, batch: VideoBatch | int, dataloader_idx: int) -> VideoBatch | int:
        return augmented(batch) if isinstance(batch, VideoBatch) else batch

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        seen: Any = self.trainer.lightning_module.batches_seen
        return {
            "phase": self.phase_index,
            "steps": seen // self.phase.accumulate,
            "loader": self.resume if self.loader is None else self.loader.state_at(seen),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.phase_index, self.resume = state_dict["phase"], state_dict["loader"]
        if "steps" in state_dict:
            self.resume = {**state_dict["loader"], "batches": state_dict["steps"] * self.phase.accumulate}


class _Iterated(Iterable[T]):
    """Items, and nothing else that they come with: no state methods. Lightning fetches one batch ahead and would save the
    loader's own count, which runs ahead of what was trained on; the count that matters is the module's."""

    def __init__(self, items: Iterable[T]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)
