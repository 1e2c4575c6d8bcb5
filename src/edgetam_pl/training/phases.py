"""8, then 16, then 32 frames (EdgeTAM Sec. 4.1). A phase boundary is a fit boundary and a checkpoint boundary.

Swapping loaders or flipping `requires_grad` inside one fit breaks under DDP and on resume, so each phase is a fit of its
own, in the same run. The callback applies its phase before the strategy wraps the module and carries it in checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from edgetam_pl.config import PhaseConfig, StageConfig
from edgetam_pl.training.datamodule import ShardDataModule
from edgetam_pl.training.distillation import Distillation


class ProgressiveFrames(L.Callback):
    """Applies phase `index` of the schedule: frames, batch, learning rate, freeze set, distillation on or off."""

    def __init__(self, phases: list[PhaseConfig], index: int) -> None:
        self.phases = phases
        self.index = index

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Distillation)
        pl_module.enter(self.index)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, ShardDataModule):
            datamodule.enter(self.index)

    def state_dict(self) -> dict[str, Any]:
        return {"index": self.index}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["index"] != self.index:
            raise ValueError(
                f"The checkpoint belongs to phase {state_dict['index']}, but phase {self.index} is about to start; "
                f"the schedule of this run was changed. Start a new run (out=...)."
            )

    def describe(self) -> str:
        phase = self.phases[self.index]
        freeze = "encoder frozen" if phase.freeze_encoder else "all parts trained"
        return f"phase {self.index + 1} of {len(self.phases)}: {phase.frames} frames, {phase.steps} steps, {freeze}"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the phase to run next, and the checkpoint to continue from (None: a fresh start)."""

    phase: int
    checkpoint: Path | None
    inside: bool
    """True: the phase is under way and optimiser and data continue; False: only the weights are taken over."""


def progress_of(folder: Path, stage: StageConfig) -> Progress:
    """The newest complete checkpoint in `folder` and what to do with it. Truncated ones are named and passed over."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        card = read_card(path)
        if card is None:
            print(f"{path.name} is incomplete and is passed over; the one before it is tried.")
            continue
        index = card["phase"]
        if index >= len(stage.phases):
            raise ValueError(f"{path} is of phase {index + 1}, but this schedule has {len(stage.phases)}; use another out=.")
        end = sum(phase.steps for phase in stage.phases[: index + 1])
        if card["steps_done"] >= end:
            return Progress(index + 1, path, inside=False)
        return Progress(index, path, inside=True)
    return Progress(0, None, inside=False)


def read_card(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself, or None when the file is truncated or not one of ours."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint["edgetam_pl"]
    except (RuntimeError, EOFError, KeyError, OSError, ValueError):
        return None
