"""Clips per second, wait for data, memory.

Lightning's ThroughputMonitor needs a logger, counts per fit and knows nothing of waiting for data; these values go to
curves.jsonl as well.
"""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from edgetam_pl.io.environment import peak_memory_bytes
from edgetam_pl.training.datamodule import ShardDataModule
from edgetam_pl.types import VideoBatch


class Throughput(L.Callback):
    """Logs `speed/*` every step: clips/s, object-frames/s, seconds spent waiting for data, peak memory in MiB; and
    `data/skipped/CAUSE`, the samples of this rank that were left out since the phase began or was resumed."""

    def __init__(self) -> None:
        self.ended = self.started = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ended = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: VideoBatch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        waited, seconds, self.ended = self.started - self.ended, now - self.ended, now
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory_bytes()
        pl_module.log_dict(
            {
                "speed/clips_per_s": batch.frames.shape[0] / seconds,
                "speed/object_frames_per_s": batch.num_objects * batch.num_frames / seconds,
                "speed/data_wait_s": waited,
                "speed/peak_mib": peak / 2**20,
            },
            batch_size=1,
            logger=False,
        )
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, ShardDataModule) and datamodule.loader is not None:
            skips = {f"data/skipped/{cause}": float(count) for cause, count in datamodule.loader.skips.items()}
            pl_module.log_dict(skips, batch_size=1, logger=False)
