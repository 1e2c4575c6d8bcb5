"""8, then 16, then 32 frames (EdgeTAM Sec. 4.1). A phase boundary is a fit boundary and a checkpoint boundary.

Swapping loaders or flipping `requires_grad` inside one fit breaks under DDP and on resume, so each phase is a fit of its
own, in the same run. The callback applies its phase before the strategy wraps the module and carries it in checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from edgetam_pl.config import PhaseConfig, StageConfig
from edgetam_pl.training import optim
from edgetam_pl.training.checkpoints import CARD, Checkpoint
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

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on at the optimiser step, whatever the number of ranks and the rates were when it was saved."""
        assert isinstance(pl_module, Distillation)
        steps = checkpoint[CARD]["steps_done"] - pl_module.first_step
        pl_module.batches_seen = steps * self.phases[self.index].accumulate
        _count_batches(checkpoint["loops"]["fit_loop"], steps=steps, batches=pl_module.batches_seen)
        _take_rates(checkpoint, pl_module, steps)

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


def _count_batches(loop: dict[str, Any], *, steps: int, batches: int) -> None:
    """Let Lightning's loop stand after the last batch of an optimiser step: with other ranks a step has another number of
    batches, and a phase that was over may have become longer."""
    progress = loop["epoch_loop.batch_progress"]
    over = progress["is_last_batch"] or loop["epoch_progress"]["current"]["processed"] > 0
    if progress["current"]["ready"] == batches and not over:
        return
    # as where a checkpoint is saved at the end of a batch: `completed` is counted after that
    for part in ("total", "current"):
        progress[part].update(ready=batches, started=batches, processed=batches, completed=batches - 1)
        loop["epoch_progress"][part].update(ready=1, started=1, processed=0, completed=0)
    progress["is_last_batch"] = False
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1


def _take_rates(checkpoint: dict[str, Any], module: Distillation, steps: int) -> None:
    """Learning rates, weight decay and betas are those of the configuration, not those of the checkpoint: both are the same
    unless they were changed on demand.

    Raises:
        ValueError: other parameters are trained than when it was saved, which the optimiser's state does not fit.
    """
    optimizer, schedulers = module.configure_optimizers(), checkpoint["lr_schedulers"]
    groups, saved = optimizer["optimizer"].param_groups, checkpoint["optimizer_states"][0]["param_groups"]  # type: ignore[index,call-overload]
    if [(one["name"], len(one["params"])) for one in groups] != [(one["name"], len(one["params"])) for one in saved]:
        raise ValueError(
            "Other parameters are trained than when this checkpoint was saved (stage.frozen, freeze_encoder, layer_decay), "
            "inside a phase. Give the settings that it has, or begin a new run (out=...) from its weights."
        )
    factor = optim.schedule_of(module.stage.optim, module.options.phase)(steps)
    for one, kept in zip(groups, saved, strict=True):
        rate = one["initial_lr"]
        kept.update(lr=rate * factor, initial_lr=rate, weight_decay=one["weight_decay"], betas=one["betas"])
    schedulers[0].update(base_lrs=[one["initial_lr"] for one in groups], _last_lr=[kept["lr"] for kept in saved])


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the phase to run next, and the checkpoint to continue from (None: a fresh start)."""

    phase: int
    checkpoint: Path | None
    inside: bool
    """True: the phase is under way and optimiser and data continue; False: only the weights are taken over."""


def progress_from(found: Checkpoint, stage: StageConfig) -> Progress:
    """What to do with a checkpoint.

    Raises:
        ValueError: it is of a phase that the schedule has not.
    """
    index = found.phase
    if index >= len(stage.phases):
        raise ValueError(
            f"{found.path} is of phase {index + 1}, but this schedule has {len(stage.phases)}; use another out=."
        )
    end = sum(phase.steps for phase in stage.phases[: index + 1])
    if found.steps_done >= end:
        return Progress(index + 1, found.path, inside=False)
    return Progress(index, found.path, inside=True)
