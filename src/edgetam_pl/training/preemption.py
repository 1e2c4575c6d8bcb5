"""Stopping a training on a signal, and checkpoints that are whole whenever the process ends.

A signal only raises a flag (`io.stop`). Before the first step of a phase and after each one the ranks agree whether any of
them got one; if so they save together and leave together. Nothing happens inside a signal handler, so no collective is ever
out of turn.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from edgetam_pl import weights
from edgetam_pl.io import stop
from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.training.forensics import on_any_rank


class StopOnSignal(Callback):
    """Finishes the step, saves `folder`/phaseP-stepNNNNNN-stopped.ckpt on all ranks together, and exits with TRY_AGAIN."""

    def __init__(self, folder: Path, phase: int) -> None:
        self.folder, self.phase = folder, phase
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Lightning's handlers speak to other ranks from inside a handler and requeue SLURM jobs; ours stay in force
        trainer._signal_connector.register_signal_handlers = lambda: None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step
        if _any_told(trainer, pl_module):  # while the run started, or after the phase before: nothing to save
            self._leave(trainer, f"before step {trainer.global_step + 1} of phase {self.phase}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # batches of one optimiser step belong together
        self._step = trainer.global_step
        if trainer.val_check_batch == 1:
            return  # a validation is due: it comes first, and the next step is the last
        if not _any_told(trainer, pl_module):
            return
        path = self.folder / f"phase{self.phase}-step{trainer.global_step:06d}-stopped.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for older in self.folder.glob("*-stopped.ckpt"):
                if older != path:
                    older.unlink()
        self._leave(trainer, f"saved at step {trainer.global_step} of phase {self.phase}")

    def _leave(self, trainer: L.Trainer, where: str) -> None:
        _forgive_children()
        if trainer.is_global_zero:
            print(f"Stopped by a signal: {where}. The same command continues.", flush=True)
        raise SystemExit(TRY_AGAIN)


def _any_told(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Has any rank been told to stop? Ranks are only asked where there are several; the answer lives on the device whose
    backend carries it."""
    told = stop.told()
    return bool(on_any_rank(torch.tensor(told, device=module.device))) if trainer.world_size > 1 else told


def _forgive_children() -> None:
    """Lightning kills a run -9 within five seconds after one of the ranks it started has ended with another status than 0,
    which all of them are about to do. Rank 0 may need longer, to close what it logs to."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._finished = True  # type: ignore[attr-defined]


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the target and renames: kill -9 at any moment leaves the old file or the new one, never a part."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        weights.write(checkpoint, Path(path))
