"""The gate, over rollouts through the same `rollout` that trained the model: occlusion, exit, re-entry, every prompt.

The programs track a clip by their own bank and their own answers, and are judged twice. Step by step: torch reads the bank
that the programs have written, so that what differs is the doing of one step; bounds are tight. And left to themselves:
torch tracks the clip by a bank of its own; errors may feed on themselves, and bounds are wider. A model may amplify any
rounding at all. Then the programs may be as far away as torch goes from itself, times `amplification`, when nothing but its
weights is rounded.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edgetam_pl.config import GateConfig, Tolerance
from edgetam_pl.export.client import PackagedTracker, RingBank
from edgetam_pl.export.clip import CheckClip, Scenario, draw, scenarios
from edgetam_pl.export.gate.comparing_tracker import Alone, Beside, Drift, FrameRow, Recorder
from edgetam_pl.export.gate.measures import Measure
from edgetam_pl.export.gate.reference import Answer, Reference
from edgetam_pl.export.manifest import RuntimeSpec
from edgetam_pl.export.parts import Part, Program
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import rollout
from edgetam_pl.types import ImageFeatures

VERB_FRAMES = 5
"""Frames of the rollouts that compare the adapters with the model's verbs: in fp32 errors need no time to grow."""

LEAST_OVERLAP = 0.5
"""However much a model amplifies rounding, below this IoU it is another mask."""

TOLD_EVERY = 8
"""Frames between two lines of progress."""

ALONE = "left to itself"
"""In the report: torch with a bank of its own."""

Note = Callable[[str], None]


class Expected(NamedTuple):
    """torch's answer, with a bank of its own, and what the programs may make of it: a golden file keeps this."""

    rollout: str
    frame: int
    logits: Tensor  # (1, 1, S/4, S/4) float16
    iou: float
    presence: float
    least_iou: float


class DriftBound(NamedTuple):
    """How far the programs may go, left to themselves, on one answer."""

    error: float
    iou: float
    why: str


def drift_bounds(
    apart: Sequence[Drift], tolerance: Tolerance, own: Sequence[Drift] | None, amplification: float
) -> list[DriftBound]:
    """The bounds of every answer: the tolerance's, or wider where torch's own drift, up to that answer, is so large.

    Args:
        apart: the programs' answers.
        own: torch against itself with rounded weights; null: there is no excuse.
    """
    tight = DriftBound(tolerance.free, tolerance.iou, ALONE)
    if own is None:
        return [tight] * len(apart)
    found, error, gap = [], 0.0, 0.0
    for each in own:
        error, gap = max(error, each.error), max(gap, 1 - each.iou)
        wide = DriftBound(
            max(tolerance.free, amplification * error),
            min(tolerance.iou, max(1 - amplification * gap, LEAST_OVERLAP)),
            f"{ALONE} (bound: {amplification:g} x torch's own drift with rounded weights)",
        )
        found.append(tight if wide[:2] == tight[:2] else wide)
    return found


class Rollouts(NamedTuple):
    """What the rollouts gave: numbers with their bounds, a row per answer, and torch's answers."""

    measures: list[Measure]
    rows: list[FrameRow]
    expected: list[Expected]


def compare_rollouts(
    model: TrackAnything,
    parts: Mapping[str, Part],
    programs: Mapping[str, Program],
    loop: RuntimeSpec,
    gate: GateConfig,
    tolerance: Tolerance,
    *,
    excusable: bool,
    note: Note = lambda text: None,
) -> Rollouts:
    """All scenarios: the programs with their ring buffer and torch beside them, then torch with its memory bank.

    Args:
        excusable: may the programs drift if torch does, with its weights rounded to half precision?
    """
    clip, names = draw(gate.frames, loop.size, seed=gate.seed), {role: part.name for role, part in parts.items()}
    reference, told = Reference(model, parts, loop, gate), Rollouts([], [], [])
    for scenario in scenarios(clip, short_frames=gate.short_frames):
        beside = Beside(PackagedTracker(programs, loop), reference, names, scenario.name, tolerance)
        _roll(beside, RingBank(loop), scenario, clip, note=lambda text: note(f"{text}, programs"))
        apart = _alone(reference, beside.answers, scenario, clip, note)
        far = any(each.error > tolerance.free or each.iou < tolerance.iou for each in apart)
        own = _own_drift(reference, parts, scenario, clip, note) if far and excusable and gate.amplification > 0 else None
        _tell(told, beside, apart, drift_bounds(apart, tolerance, own, gate.amplification))
    seen = sum(row.pixels > 0 for row in told.rows) / len(told.rows)
    what = "share of answers with a mask at all"
    told.measures.append(Measure(names["track_step"], "all rollouts", what, seen, 0.0, at_least=True))
    return told


def compare_verbs(model: TrackAnything, parts: Mapping[str, Part], loop: RuntimeSpec, gate: GateConfig) -> Iterator[Measure]:
    """The flat adapters in torch, fp32, against the model's own verbs over short rollouts: is the rewriting exact?"""
    frames = min(gate.short_frames, VERB_FRAMES)
    clip, names = draw(frames, loop.size, seed=gate.seed), {role: part.name for role, part in parts.items()}
    reference, programs = Reference(model, parts, loop, gate), {role: part.run for role, part in parts.items()}
    for scenario in scenarios(clip, short_frames=frames):
        beside = Beside(PackagedTracker(programs, loop), reference, names, scenario.name, Tolerance(step=gate.adapters))
        _roll(beside, RingBank(loop), scenario, clip)
        for measure in beside.measures:
            if not measure.at_least:
                yield dataclasses.replace(measure, part="adapters", where=f"{measure.where}, {measure.part}")


def _tell(told: Rollouts, beside: Beside, apart: Sequence[Drift], bounds: Sequence[DriftBound]) -> None:
    """Add what one scenario gave."""
    told.measures.extend(beside.measures)
    for answer, row, each, leash in zip(beside.answers, beside.rows, apart, bounds, strict=True):
        part = beside.names["track_step" if answer.decoded.prompts is None else "prompt_decoder"]
        where = f"rollout {beside.name}, frame {each.frame}"
        error = f"relative error of the candidates, {leash.why}"
        told.measures.append(Measure(part, where, error, each.error, leash.error))
        told.measures.append(Measure(part, where, f"mask IoU with torch, {leash.why}", each.iou, leash.iou, True))
        told.rows.append(dataclasses.replace(row, free_candidates=each.error, free_psnr=each.psnr, free_iou=each.iou))
        truth = each.truth
        scores = truth.iou.max().item(), truth.presence.min().item(), leash.iou
        told.expected.append(Expected(beside.name, each.frame, truth.best.half(), *scores))


def _alone(reference: Reference, answers: Sequence[Answer], scenario: Scenario, clip: CheckClip, note: Note) -> list[Drift]:
    alone = Alone(reference, answers)
    policy = RecallPolicy(num_pointers=reference.loop.num_pointers, past_pointers_only=True)
    _roll(alone, MemoryBank(policy=policy), scenario, clip, note=lambda text: note(f"{text}, torch"))
    return alone.found


def _own_drift(
    reference: Reference, parts: Mapping[str, Part], scenario: Scenario, clip: CheckClip, note: Note
) -> list[Drift]:
    """How far torch goes from itself when its weights are rounded to half precision, and nothing else."""
    programs = {role: _rounded(part).run for role, part in parts.items()}
    recorder = Recorder(PackagedTracker(programs, reference.loop))
    _roll(recorder, RingBank(reference.loop), scenario, clip, note=lambda text: note(f"{text}, torch with rounded weights"))
    return _alone(reference, recorder.answers, scenario, clip, note)


def _rounded(part: Part) -> Part:
    module = copy.deepcopy(part.module)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.half().float())
    return dataclasses.replace(part, module=module)


def _roll(
    tracker: Recorder | Alone,
    bank: RingBank | MemoryBank,
    scenario: Scenario,
    clip: CheckClip,
    *,
    note: Note = lambda text: None,
) -> None:
    def see(t: int) -> ImageFeatures:
        if t % TOLD_EVERY == 0:
            note(f"rollout {scenario.name}, frame {t} of {scenario.num_frames}")
        return tracker.see(t, clip.frame(t))

    rollout(tracker, see, Script(scenario.entries), num_frames=scenario.num_frames, bank=bank)  # type: ignore[arg-type]
