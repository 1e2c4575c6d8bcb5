"""What to do when a number is no number: agree across ranks, name the culprit, keep what is needed to see it again.

The order of a step is: `broken` after the losses, `broken_gradients` after backward, `on_any_rank` once before the optimiser
steps, and then either nothing, or `diagnose`, `save_case` and a stop on every rank. A rank that stopped alone would leave
the others waiting for it for ever.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgetam_pl.losses.objective import Losses
from edgetam_pl.tracking.prompters import Replay, prompts_of
from edgetam_pl.types import FrameOutput, Prompts, VideoBatch

VERSION = 1
"""Of the case file."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite on some rank. Raised on every rank, at the same step."""


# --- is something wrong, and does every rank know? ---


def broken(losses: Losses) -> Tensor:
    """Scalar bool on the losses' device: is any term not finite? No host synchronisation."""
    return ~torch.isfinite(torch.stack([term.detach() for term in losses])).all()


def broken_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
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
    """Name what is not finite. Slow: only when `on_any_rank` said so."""
    return Finding(
        terms=tuple(name for name, term in losses._asdict().items() if not torch.isfinite(term)),
        gradients=tuple(n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()),
        weights=tuple(
            n for n, value in model.state_dict().items() if ".running_" not in n and not torch.isfinite(value).all()
        ),
    )


def first_broken_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """The innermost module that first turned finite inputs into something not finite while `forward` ran; None if none did.

    For a replayed case: `first_broken_module(student, lambda: rollout(student, ...))`.
    """
    culprits: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def look(module: nn.Module, given: tuple[object, ...], made: object) -> None:
            if not culprits and _all_finite(given) and not _all_finite(made):
                culprits.append(name)

        return look

    # A parent's hook runs after its children's, so the first to report is the innermost.
    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return culprits[0] if culprits else None


def _all_finite(value: object) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)


# --- keep it, and see it again ---


@dataclass(frozen=True)
class Case:
    """One step of one rank, complete enough to be taken again."""

    batch: VideoBatch
    words: tuple[tuple[Prompts | None, ...], ...]
    """What was said about each frame before each answer (`prompters.prompts_of`); the logits that corrections improve on are
    left out, a replay has its own."""
    order: tuple[int, ...]
    """The order in which the frames were visited."""
    step: int
    rank: int
    seeds: dict[str, int]
    """Whatever the trainer seeded for the step, by name."""
    finding: Finding
    module: str | None = None
    """The module that broke first, where it is known."""
    weights: dict[str, Tensor] | None = None
    """The student before the step."""
    card: dict[str, Any] | None = None
    """Configurations of model and stage, plain values: what it takes to build the student again."""

    def prompter(self, device: torch.device | str = "cpu") -> Replay:
        moved = [[None if said is None else _to(said, device) for said in frame] for frame in self.words]
        return Replay.of_prompts(moved, self.order)


def save_case(folder: Path, case: Case) -> Path:
    """Write stepNNNNNN-rankN.pt for `load_case`, and a .json beside it for people. Written elsewhere first, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step{case.step:06d}-rank{case.rank}.pt"
    content: dict[str, Any] = {
        "version": VERSION,
        "batch": dict(vars(case.batch)),
        "words": [[_packed(said) for said in frame] for frame in case.words],
        "order": list(case.order),
        "step": case.step,
        "rank": case.rank,
        "seeds": case.seeds,
        "finding": {name: list(names) for name, names in case.finding._asdict().items()},
        "module": case.module,
        "weights": case.weights,
        "card": case.card,
    }
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)
    summary = {
        "step": case.step,
        "rank": case.rank,
        "keys": list(case.batch.keys),
        "source": case.batch.source,
        "finding": content["finding"],
        "module": case.module,
        "seeds": case.seeds,
        "prompts": [[_summary(said) for said in frame] for frame in case.words],
        "order": content["order"],
    }
    partial.write_text(json.dumps(summary, indent=1))
    partial.replace(path.with_suffix(".json"))
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
        words=tuple(tuple(_unpacked(said) for said in frame) for frame in content["words"]),
        order=tuple(content["order"]),
        step=content["step"],
        rank=content["rank"],
        seeds=content["seeds"],
        finding=Finding(**{name: tuple(names) for name, names in content["finding"].items()}),
        module=content["module"],
        weights=content["weights"],
        card=content["card"],
    )


def _packed(said: Prompts | None) -> dict[str, Any] | None:
    if said is None:
        return None
    kept = {name: None if value is None else value.detach().cpu() for name, value in said._asdict().items()}
    return kept | {"previous": said.previous is not None}


def _unpacked(kept: dict[str, Any] | None) -> Prompts | None:
    if kept is None:
        return None
    # An empty tensor marks a correction; whoever replays it puts its own logits there.
    return Prompts(**(kept | {"previous": torch.empty(0) if kept["previous"] else None}))


def _summary(said: Prompts | None) -> dict[str, Any] | None:
    if said is None:
        return None
    if said.mask is not None:
        return {"mask": said.mask.flatten(1).sum(dim=1).tolist()}
    assert said.points is not None
    assert said.labels is not None
    return {"points": said.points.tolist(), "labels": said.labels.tolist()}


class RecordedBatch(NamedTuple):
    """One batch of the step under way: enough to make a case of it."""

    batch: VideoBatch
    words: tuple[tuple[Prompts | None, ...], ...]
    order: tuple[int, ...]
    losses: Losses  # detached
    seeds: dict[str, int]


class Watch:
    """Keeps the batches of the optimiser step under way, and stops all ranks when one of them made no number of its loss."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` receives the cases; None: nothing is written, ranks stop all the same."""
        self.folder = folder
        self.taken: list[RecordedBatch] = []

    def note(
        self, batch: VideoBatch, outputs: Sequence[FrameOutput], order: Sequence[int], losses: Losses, seeds: dict[str, int]
    ) -> None:
        """Remember a batch until the optimiser has stepped. No host synchronisation, and no graph is held."""
        words = tuple(tuple(_without_logits(said) for said in frame) for frame in prompts_of(outputs))
        self.taken.append(RecordedBatch(batch, words, tuple(order), Losses(*(term.detach() for term in losses)), seeds))

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
        takes a case again, to find the module that broke first.

        Raises:
            NonFiniteError: on all ranks together; the ranks whose own loss broke have saved a case.
        """
        taken, self.taken = self.taken, []
        lost = torch.stack([broken(one.losses) for one in taken]) if taken else torch.zeros(1, dtype=torch.bool)
        flag = lost.any()
        if gradients:
            flag = flag | broken_gradients(model.parameters()).to(flag.device)
        if not on_any_rank(flag):
            return
        said, mine, anyone = "nothing on this rank", bool(lost.any()), on_any_rank(lost.any())
        if taken and (mine or not anyone):  # gradients are averaged: when only they are broken, every rank saves
            one = taken[int(lost.int().argmax())]
            case = Case(
                one.batch.to("cpu"), one.words, one.order, step, rank, one.seeds, diagnose(model, one.losses),
                weights={name: value.detach().cpu().clone() for name, value in model.state_dict().items()}, card=card,
            )  # fmt: skip
            case = replace(case, module=first_broken_module(model, lambda: forward(case)))
            said = f"{case.finding}; first broken module: {case.module or 'none in the forward pass'}"
            if self.folder is not None:
                said += f". Look again with: edgetam replay {save_case(self.folder, case)}"
        raise NonFiniteError(f"Step {step}, rank {rank}: a loss or gradient is not finite: {said}")


def _to(said: Prompts, device: torch.device | str) -> Prompts:
    return Prompts(*(None if value is None else value.to(device) for value in said))


def _without_logits(said: Prompts | None) -> Prompts | None:
    return said if said is None or said.previous is None else said._replace(previous=torch.empty(0))


# --- whose loss is it? ---


def loss_shares(weighted: Losses) -> dict[str, Tensor]:
    """The share of each weighted term in their sum, by name."""
    terms = torch.stack([term.detach() for term in weighted])
    return dict(zip(Losses._fields, terms / terms.sum().clamp(min=torch.finfo(terms.dtype).tiny), strict=True))


def gradient_shares(weighted: Losses, at: Sequence[Tensor]) -> dict[str, Tensor]:
    """The share of each weighted term in the sum of the terms' gradient norms at some parameters or activations.

    One backward pass per term, through a graph that stays usable for the step's own backward; call it now and then, before.
    """
    norms = []
    for term in weighted:
        norm = torch.zeros((), device=term.device)
        if term.requires_grad:
            slopes = torch.autograd.grad(term, at, retain_graph=True, allow_unused=True)
            found = [slope for slope in slopes if slope is not None]
            if found:
                norm = torch.stack(torch._foreach_norm(found)).norm().float()
        norms.append(norm)
    stacked = torch.stack(norms)
    return dict(zip(Losses._fields, stacked / stacked.sum().clamp(min=torch.finfo(stacked.dtype).tiny), strict=True))
