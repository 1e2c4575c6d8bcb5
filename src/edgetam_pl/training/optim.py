"""What AdamW is given: parameter groups and the learning rate at each step (Table 5; SAM 2 release)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from edgetam_pl.config import OptimConfig, PhaseConfig

TRUNK = "image_encoder.trunk."
ENCODER = re.compile(r"image_encoder\.(?!neck\.project_f)")
"""What gets the encoder's learning rate. The F4 and F8 projections do not: in the release they belong to the decoder."""


def parameter_groups(
    model: nn.Module, *, lr: float, encoder_lr: float | None, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for AdamW, each with params, lr, weight_decay and a name; parameters that need no gradient are left out.

    Weight decay spares parameters with "bias" in their name and those of `torch.nn.LayerNorm`, and nothing else: 2D layer
    norms, BatchNorm gains, position embeddings and latents are decayed (SAM 2 release). `layer_decay` v makes block i of
    the trunk's L blocks learn at v^(L-i) of the encoder's rate and the patch embedding at v^(L+1); position embeddings, the
    neck and the rest of the trunk keep the whole rate.

    Raises:
        ValueError: a rate is not positive, or layer_decay not in 0 ... 1.
    """
    for name, rate in (("lr", lr), ("encoder_lr", lr if encoder_lr is None else encoder_lr)):
        if rate <= 0:
            raise ValueError(f"{name} is {rate}; a learning rate is positive. To train without the encoder, freeze it.")
    if not 0 < layer_decay <= 1:
        raise ValueError(
            f"layer_decay is {layer_decay}; give a factor above 0 and at most 1 (1: none; SAM 2: 0.8 to 0.925)."
        )
    spared = _layer_norm_parameters(model)
    depth_of = _trunk_depths(model)
    num_blocks = max(depth_of.values(), default=0)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, rate = "rest", lr
        if ENCODER.match(name):
            part, rate = "encoder", lr if encoder_lr is None else encoder_lr
            if layer_decay < 1 and name in depth_of:
                part = f"encoder.{depth_of[name]}"
                rate *= layer_decay ** (num_blocks + 1 - depth_of[name])
        decays = "bias" not in name and name not in spared
        group = groups.setdefault(
            (part, decays),
            {
                "params": [],
                "lr": rate,
                "weight_decay": weight_decay if decays else 0.0,
                "name": part if decays else f"{part}.no_decay",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def schedule(
    name: str,
    *,
    total_steps: int,
    warmup: int = 0,
    cooldown: int = 0,
    timescale: int = 1000,
    end_factor: float = 0.0,
) -> Callable[[int], float]:
    """The factor on every group's learning rate at step s = 0, 1, ...; W warm-up, C cool-down, N total steps.

    cosine: s/W, then e + (1 - e) (1 + cos(pi (s - W) / (N - W))) / 2, with e the end factor (stage 2; Table 5).
    rsqrt: sqrt(tau / (s + tau - W)) after W steps, times min(1, s/W), times min(1, (N - s)/C) (stage 1; Table 5).
    constant: 1, times the same warm-up and cool-down.

    >>> factor = schedule("rsqrt", total_steps=10_000, warmup=1000)
    >>> factor(500), factor(1000), factor(4000)
    (0.5, 1.0, 0.5)

    Raises:
        ValueError: the schedule is unknown or impossible, such as a warm-up longer than training.
    """
    _refuse_impossible(name, total_steps, warmup, cooldown, timescale, end_factor)
    curve, steps = SCHEDULES[name], Steps(total_steps, warmup, cooldown, timescale, end_factor)
    # The scheduler asks for one step more than there are, and a resumed run may ask for the last one again.
    return lambda step: curve(min(step, total_steps), steps)


class Steps(NamedTuple):
    """What a schedule is told; see `OptimConfig`."""

    total: int
    warmup: int
    cooldown: int
    timescale: int
    end_factor: float


def _constant(step: int, steps: Steps) -> float:
    up = min(1.0, step / steps.warmup) if steps.warmup else 1.0
    return up * min(1.0, (steps.total - step) / steps.cooldown) if steps.cooldown else up


def _cosine(step: int, steps: Steps) -> float:
    if step < steps.warmup:
        return _constant(step, steps)
    progress = (step - steps.warmup) / max(steps.total - steps.warmup, 1)
    return steps.end_factor + (1 - steps.end_factor) * (1 + math.cos(math.pi * progress)) / 2


def _rsqrt(step: int, steps: Steps) -> float:
    return math.sqrt(steps.timescale / (max(step - steps.warmup, 0) + steps.timescale)) * _constant(step, steps)


SCHEDULES: dict[str, Callable[[int, Steps], float]] = {"cosine": _cosine, "rsqrt": _rsqrt, "constant": _constant}
"""By name, the factor at a step: a closed form, so that a resumed run needs no state."""


def schedule_of(cfg: OptimConfig, phase: PhaseConfig) -> Callable[[int], float]:
    """The schedule of one phase, which may have its own warm-up.

    Raises:
        ValueError: as `schedule`.
    """
    return schedule(
        cfg.schedule,
        total_steps=phase.steps,
        warmup=cfg.warmup if phase.warmup is None else phase.warmup,
        cooldown=cfg.cooldown,
        timescale=cfg.timescale,
        end_factor=cfg.end_factor,
    )


def _refuse_impossible(name: str, total_steps: int, warmup: int, cooldown: int, timescale: int, end_factor: float) -> None:
    if name not in SCHEDULES:
        raise ValueError(f"There is no schedule {name!r}; choose one of {', '.join(SCHEDULES)}.")
    if total_steps < 1 or warmup < 0 or cooldown < 0:
        raise ValueError(
            f"A schedule of {total_steps} steps with warmup={warmup} and cooldown={cooldown} is impossible: there is at "
            "least one step, and neither warm-up nor cool-down is negative."
        )
    if warmup + cooldown > total_steps:
        raise ValueError(
            f"warmup={warmup} and cooldown={cooldown} do not fit into {total_steps} steps; shorten them or train longer."
        )
    if name == "cosine" and cooldown:
        raise ValueError(f"cooldown={cooldown} with schedule=cosine: the cosine cools down by itself; set cooldown=0.")
    if timescale < 1:
        raise ValueError(f"timescale={timescale}; the reciprocal square root needs at least 1 step (Table 5: 1000).")
    if not 0 <= end_factor <= 1:
        raise ValueError(f"end_factor={end_factor}; the cosine ends at a share of lr between 0 and 1.")


def _layer_norm_parameters(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }


def _trunk_depths(model: nn.Module) -> dict[str, int]:
    """Depth of the trunk's parameters: 0 for the patch embedding or stem, i + 1 in block i. Others are not listed.

    Blocks are numbered through all stages in the order of execution; a stage's down-sampling belongs to its first block.
    """
    depths: dict[str, int] = {}
    blocks: dict[str, int] = {}
    for name, _ in model.named_parameters():
        if not name.startswith(TRUNK) or "pos_embed" in name:
            continue
        block = re.match(r".*?\bblocks\.\d+\.", name)
        if block:
            depths[name] = blocks.setdefault(block.group(), len(blocks)) + 1
        elif re.search(r"\.(patch_embed|stem)\.", name):
            depths[name] = 0
        elif ".downsample." in name:
            depths[name] = len(blocks) + 1
    return depths
