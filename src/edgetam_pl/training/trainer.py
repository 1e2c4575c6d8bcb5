"""Arguments of `lightning.Trainer`: what this training needs of them, and what it refuses before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch

from edgetam_pl.config.choices import did_you_mean
from edgetam_pl.io.environment import warn_of_slow_bf16

UNUSED = "ddp_find_unused_parameters_true"
"""Strategy of several ranks: a batch of images leaves the parts of memory without a gradient, masks as prompts the prompt
encoder. Plain DDP waits for these gradients and dies at the second step."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def trainer_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the strategy that several ranks need, if none is named.

    Raises:
        ValueError: an argument that Lightning does not have, or one with which this training cannot work.
    """
    known = inspect.signature(L.Trainer.__init__).parameters.keys() - {"self"}
    for key in given:
        if key not in known:
            raise ValueError(f"lightning.Trainer has no argument {key} (trainer.{key}).{did_you_mean(key, sorted(known))}")
    precision = str(given.get("precision") or "32-true")
    if _SHORT.get(precision, precision) not in PRECISIONS:
        raise ValueError(
            f"trainer.precision is {precision}; use one of {', '.join(PRECISIONS)}. The weights stay in fp32, since AdamW's "
            "steps are smaller than bf16 can tell apart; bf16-mixed computes in bf16 all the same."
        )
    strategy = given.get("strategy", "auto")
    if isinstance(strategy, str) and strategy.startswith("ddp") and "find_unused_parameters_true" not in strategy:
        raise ValueError(
            f"trainer.strategy is {strategy}, which waits for a gradient of every parameter, and images leave the parts of "
            f"memory without one. Leave the strategy out, or use {UNUSED}."
        )
    alone = given.get("devices", 1) in (1, "1", [0]) and int(given.get("num_nodes", 1)) == 1
    return dict(given) if strategy != "auto" or alone else {**given, "strategy": UNUSED}


def accelerator_of(given: Mapping[str, Any]) -> str:
    """Where a training with these arguments of `lightning.Trainer` runs on this machine: cpu, gpu, mps, or as given."""
    kind = str(given.get("accelerator", "auto"))
    if kind == "auto":
        return "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return "gpu" if kind == "cuda" else kind


def require_devices(given: Mapping[str, Any]) -> None:
    """Refuse an accelerator that this machine does not have, and warn of bfloat16 on a processor without it.

    Raises:
        ValueError: naming the key, what there is, and what to use instead.
    """
    kind, devices = str(given.get("accelerator", "auto")), given.get("devices", 1)
    if str(given.get("precision")).startswith("bf16"):
        warn_of_slow_bf16(accelerator_of(given), instead="trainer.precision=32-true")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator is mps, but torch cannot use one here; use trainer=cpu.")
    if kind not in ("gpu", "cuda") or torch.backends.mps.is_available():
        return
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = len(devices) if isinstance(devices, list | tuple) else devices if isinstance(devices, int) else 1
    if there < max(wanted, 1):
        raise ValueError(
            f"trainer.accelerator is {kind} with devices={devices}, but torch finds {there} GPUs here; use "
            f"{'trainer=cpu' if not there else f'trainer.devices={there}'}, or start it where they are (launcher=slurm)."
        )
