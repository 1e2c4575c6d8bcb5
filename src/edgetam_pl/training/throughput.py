"""Clips per second, wait for data, memory. They read; they never steer."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning as L
import torch

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
        waited, self.ended, since = self.started - self.ended, time.perf_counter(), self.ended
        seconds = self.ended - since
        pl_module.log_dict(
            {
                "speed/clips_per_s": batch.frames.shape[0] / seconds,
                "speed/object_frames_per_s": batch.num_objects * batch.num_frames / seconds,
                "speed/data_wait_s": waited,
                "speed/peak_mib": peak_mib(),
            },
            batch_size=1,
            logger=False,
        )
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, ShardDataModule) and datamodule.loader is not None:
            skips = {f"data/skipped/{cause}": float(count) for cause, count in datamodule.loader.skips.items()}
            pl_module.log_dict(skips, batch_size=1, logger=False)


def peak_mib() -> float:
    """Peak memory of this process in MiB: on the GPU if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
