"""Stopping on a signal, of a person or of a cluster, and checkpoints that are whole whenever the process ends.

A signal only raises a flag. At the end of an optimiser step the ranks agree whether any of them got one; if so they
save together and leave together. Nothing happens inside a signal handler, so no collective is ever out of turn.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from edgetam_pl import weights
from edgetam_pl.training.forensics import on_any_rank

TRY_AGAIN = 75
"""Exit status of a run that was stopped and has saved: give the same command again (EX_TEMPFAIL of sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""Ends of allocations (SLURM, torchrun, Kubernetes), warnings before them (SLURM --signal=USR1@..., submitit: USR2), and
Ctrl-C."""


class StopOnSignal(Callback):
    """Finishes the step, saves `folder`/phaseP-stepNNNNNN.ckpt on all ranks together, and exits with TRY_AGAIN."""

    def __init__(self, folder: Path, phase: int) -> None:
        self.folder, self.phase = folder, phase
        self.stopping = False
        self._before: dict[signal.Signals, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step
        self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # batches of one optimiser step belong together
        self._step = trainer.global_step
        if trainer.val_check_batch == 1:
            return  # a validation is due: it comes first, and the next step is the last
        # Ranks are only asked where there are several; the flag lives on the device whose backend carries it.
        several = trainer.world_size > 1
        if not (on_any_rank(torch.tensor(self.stopping, device=pl_module.device)) if several else self.stopping):
            return
        path = self.folder / f"phase{self.phase}-step{trainer.global_step:06d}-stopped.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for older in self.folder.glob("*-stopped.ckpt"):
                if older != path:
                    older.unlink()
            saved = f"saved at step {trainer.global_step} of phase {self.phase}"
            print(f"Stopped by a signal: {saved}. The same command continues.")
        raise SystemExit(TRY_AGAIN)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the step
        self.stopping = True

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the target and renames: kill -9 at any moment leaves the old file or the new one, never a part."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        weights.write(checkpoint, Path(path))
