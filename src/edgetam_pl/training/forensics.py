"""What to do about a loss or gradient that is not finite: stop all ranks, name the cause, keep what repeats the step.

The order of a step is: `loss_is_nonfinite` after the losses, `gradient_is_nonfinite` after backward, `on_any_rank` once
before the optimiser steps, and then either nothing, or `diagnose`, `save_case` and a stop on every rank. A rank that stopped
alone would leave the others waiting for it for ever.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.io.errors import ExplainedError
from edgetam_pl.losses.objective import Losses
from edgetam_pl.tracking.prompters import Replay, prompts_of
from edgetam_pl.types import FrameOutput, Prompts, VideoBatch

VERSION = 1
"""Of the case file."""

ClipPrompts = tuple[tuple[Prompts | None, ...], ...]
"""For each frame, the prompts before each answer; None where the tracker answered by itself."""


class NonFiniteError(ExplainedError):
    """A loss or gradient was not finite on some rank. Raised on every rank, at the same step."""


# --- is something wrong, and does every rank know? ---


def loss_is_nonfinite(losses: Losses) -> Tensor:
    """Scalar bool on the losses' device: is any term not finite? No host synchronisation."""
    return ~torch.isfinite(losses.detached().stacked()).all()


def gradient_is_nonfinite(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Scalar bool: is any gradient not finite? One norm per tensor, no host synchronisation."""
    every = list(parameters)
    gradients = [p.grad for p in every if p.grad is not None]
    if not gradients:
        return torch.zeros((), dtype=torch.bool, device=every[0].device)
    return ~torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()


def on_any_rank(flag: Tensor) -> bool:
    """Is the flag true on any rank? Every rank must ask. This is the one place where the host waits for the device."""
    verdict = flag.detach().to(torch.int32).reshape(1)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(verdict, op=dist.ReduceOp.MAX)
    return bool(verdict.item())


# --- what exactly is wrong? ---


class Finding(NamedTuple):
    """What was not finite on this rank; all empty when the trouble is another rank's."""

    terms: tuple[str, ...]
    """Loss terms."""
    gradients: tuple[str, ...]
    """Parameters with such gradients."""
    weights: tuple[str, ...]
    """Parameters and buffers that were not finite themselves: the trouble is older than this step. BatchNorm's running
    statistics do not count, they have seen this step already."""

    def __str__(self) -> str:
        parts = [
            f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for title, names in zip(("loss terms", "gradients", "weights"), self, strict=True)
            if names
        ]
        return "; ".join(parts) or "nothing on this rank"


def diagnose(model: nn.Module, losses: Losses) -> Finding:
    """Name what is not finite. Slow: only when `on_any_rank` is true."""
    return Finding(
        terms=tuple(name for name, term in losses.items() if not torch.isfinite(term)),
        gradients=tuple(n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()),
        weights=tuple(
            n for n, value in model.state_dict().items() if ".running_" not in n and not torch.isfinite(value).all()
        ),
    )


def first_nonfinite_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """The innermost module that first turned finite inputs into something not finite while `forward` ran; None if none did.

    For a replayed case: `first_nonfinite_module(student, lambda: rollout(student, ...))`.
    """
    found: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def compare(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if not found and _all_finite(inputs) and not _all_finite(output):
                found.append(name)

        return compare

    # A parent's hook runs after its children's, so the first to report is the innermost.
    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _all_finite(value: object) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping | tuple | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)


# --- keep it, and see it again ---


@dataclass(frozen=True)
class Case:
    """One step of one rank, complete enough to be taken again."""

    batch: VideoBatch
    prompts: ClipPrompts
    """The logits that corrections improve on are left out, a replay has its own."""
    order: tuple[int, ...]
    """The order in which the frames were visited."""
    step: int
    rank: int
    seeds: dict[str, int]
    """Of the step, by name (`step.StepSeeds`)."""
    finding: Finding
    module: str | None = None
    """The module that was the first to make something not finite, where it is known."""
    weights: dict[str, Tensor] | None = None
    """The student before the step."""
    card: dict[str, Any] | None = None
    """Configurations of model and stage, plain values: what it takes to build the student again."""

    def prompter(self, device: torch.device | str = "cpu") -> Replay:
        moved = [[_changed(prompts, lambda value: value.to(device)) for prompts in frame] for frame in self.prompts]
        return Replay.of_prompts(moved, self.order)


def save_case(folder: Path, case: Case) -> Path:
    """Write stepNNNNNN-rankN.pt for `load_case`, and a .json beside it for people."""
    path = folder / f"step{case.step:06d}-rank{case.rank}.pt"
    facts: dict[str, Any] = {
        "step": case.step,
        "rank": case.rank,
        "seeds": case.seeds,
        "finding": {name: list(names) for name, names in case.finding._asdict().items()},
        "module": case.module,
        "order": list(case.order),
    }
    batch = dict(vars(replace(case.batch, views=())))  # the teacher is not asked again
    kept = {"version": VERSION, "batch": batch, "weights": case.weights, "card": case.card}
    with atomic_path(path) as draft:
        torch.save({**facts, **kept, "words": [[_packed(prompts) for prompts in frame] for frame in case.prompts]}, draft)
    shown = [[_summary(prompts) for prompts in frame] for frame in case.prompts]
    clips = {"keys": list(case.batch.keys), "source": case.batch.source}
    write_json(path.with_suffix(".json"), {**clips, **facts, "prompts": shown}, indent=1)
    return path


def load_case(path: Path) -> Case:
    """Read what `save_case` wrote.

    Raises:
        ValueError: the file is no case, or of another version.
    """
    if not path.is_file():
        raise ValueError(f"There is no case {path}; give a step*.pt below the run's forensics folder.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} ({path.stat().st_size} bytes) cannot be read; it may be truncated.") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"{path} is not a case of version {VERSION}; give a step*.pt that this version of training wrote.")
    return Case(
        batch=VideoBatch(**content["batch"]),
        prompts=tuple(tuple(_unpacked(kept) for kept in frame) for frame in content["words"]),
        order=tuple(content["order"]),
        finding=Finding(**{name: tuple(names) for name, names in content["finding"].items()}),
        **{name: content[name] for name in ("step", "rank", "seeds", "module", "weights", "card")},
    )


def _changed(prompts: Prompts | None, change: Callable[[Tensor], Tensor]) -> Prompts | None:
    return None if prompts is None else Prompts(*(None if value is None else change(value) for value in prompts))


def _packed(prompts: Prompts | None) -> dict[str, Any] | None:
    kept = _changed(prompts, lambda value: value.detach().cpu())
    return None if kept is None else {**kept._asdict(), "previous": kept.previous is not None}


def _unpacked(kept: dict[str, Any] | None) -> Prompts | None:
    # An empty tensor marks a correction; whoever replays it puts its own logits there.
    return None if kept is None else Prompts(**{**kept, "previous": torch.empty(0) if kept["previous"] else None})


def _summary(prompts: Prompts | None) -> dict[str, Any] | None:
    """For people: points and labels as they are, of masks the number of pixels."""
    if prompts is None:
        return None
    if prompts.mask is not None:
        return {"mask": prompts.mask.flatten(1).sum(dim=1).tolist()}
    assert prompts.points is not None
    assert prompts.labels is not None
    return {"points": prompts.points.tolist(), "labels": prompts.labels.tolist()}


class RecordedBatch(NamedTuple):
    """One batch of the step under way: enough to make a case of it."""

    batch: VideoBatch
    prompts: ClipPrompts
    order: tuple[int, ...]
    losses: Losses  # detached
    seeds: dict[str, int]


class Watch:
    """Keeps the batches of the optimiser step under way, and stops all ranks when a loss of one of them is not finite."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` receives the cases; None: nothing is written, ranks stop all the same."""
        self.folder = folder
        self.recorded: list[RecordedBatch] = []

    def note(
        self, batch: VideoBatch, outputs: Sequence[FrameOutput], order: Sequence[int], losses: Losses, seeds: dict[str, int]
    ) -> None:
        """Remember a batch until the optimiser has stepped. No host synchronisation, and no graph is held."""
        prompts = tuple(tuple(_without_logits(one) for one in frame) for frame in prompts_of(outputs))
        self.recorded.append(RecordedBatch(batch, prompts, tuple(order), losses.detached(), seeds))

    def check_finite(
        self,
        model: nn.Module,
        forward: Callable[[Case], object],
        *,
        gradients: bool,
        step: int,
        rank: int,
        card: dict[str, Any],
    ) -> None:
        """Before the optimiser steps: go on, or stop every rank. Called on every rank; one answer travels between them.

        `gradients`: look at them too (not under fp16 loss scaling, where infinities are part of the method). `forward`
        takes a case again, to find the module that was first.

        Raises:
            NonFiniteError: on all ranks together; the ranks whose own loss was not finite have saved a case.
        """
        recorded, self.recorded = self.recorded, []
        bad = torch.stack([loss_is_nonfinite(one.losses) for one in recorded]) if recorded else torch.zeros(1).bool()
        flag = bad.any()
        if gradients:
            flag = flag | gradient_is_nonfinite(model.parameters()).to(flag.device)
        if not on_any_rank(flag):
            return
        message, mine, anyone = "nothing on this rank", bool(bad.any()), on_any_rank(bad.any())
        if recorded and (mine or not anyone):  # gradients are averaged: when only they are not finite, every rank saves
            one = recorded[int(bad.int().argmax())]
            case = Case(
                one.batch.to("cpu"), one.prompts, one.order, step, rank, one.seeds, diagnose(model, one.losses),
                weights={name: value.detach().cpu().clone() for name, value in model.state_dict().items()}, card=card,
            )  # fmt: skip
            case = replace(case, module=first_nonfinite_module(model, lambda: forward(case)))
            message = f"{case.finding}; first module: {case.module or 'none in the forward pass'}"
            if self.folder is not None:
                message += f". Look again with: edgetam replay {save_case(self.folder, case)}"
        raise NonFiniteError(f"Step {step}, rank {rank}: a loss or gradient is not finite: {message}")


def _without_logits(prompts: Prompts | None) -> Prompts | None:
    return prompts if prompts is None or prompts.previous is None else prompts._replace(previous=torch.empty(0))


# --- whose loss is it? ---


def loss_shares(weighted: Losses) -> dict[str, Tensor]:
    """The share of each weighted term in their sum, by name."""
    return _shares(weighted, weighted.detached().stacked())


def gradient_shares(weighted: Losses, at: Sequence[Tensor]) -> dict[str, Tensor]:
    """The share of each weighted term in the sum of the terms' gradient norms at some parameters or activations.

    One backward pass per term, through a graph that stays usable for the step's own backward; call it now and then, before.
    """
    norms = []
    for term in weighted.values():
        norm = torch.zeros((), device=term.device)
        if term.requires_grad:
            slopes = torch.autograd.grad(term, at, retain_graph=True, allow_unused=True)
            found = [slope for slope in slopes if slope is not None]
            if found:
                norm = torch.stack(torch._foreach_norm(found)).norm().float()
        norms.append(norm)
    return _shares(weighted, torch.stack(norms))


def _shares(names: Iterable[str], values: Tensor) -> dict[str, Tensor]:
    return dict(zip(names, values / values.sum().clamp(min=torch.finfo(values.dtype).tiny), strict=True))
