"""The gate over rollouts, by the same `observe` and `remember` that trained the model: occlusion, exit, every prompt.

The programs track a clip by their own bank and their own answers, and are judged twice. Step by step: torch reads the bank
that the programs have written, so that what differs is the work of one step; bounds are tight. And left to themselves:
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
from edgetam_pl.exporting.client import RingBank
from edgetam_pl.exporting.clip import CheckClip, Scenario, draw, scenarios
from edgetam_pl.exporting.gate.comparing_tracker import (
    ComparingTracker,
    Drift,
    Encode,
    FrameRow,
    FreeAnswers,
    FreeReference,
    RecordingTracker,
)
from edgetam_pl.exporting.gate.measures import Measure
from edgetam_pl.exporting.gate.reference import Reference, once_for_shared_frames
from edgetam_pl.exporting.manifest import RuntimeSpec
from edgetam_pl.exporting.parts import Part, Program
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.prompters import Script
from edgetam_pl.tracking.step import observe, remember

VERB_FRAMES = 5
"""Frames of the rollouts that compare the adapters with the model's verbs: in fp32 errors need no time to grow."""

LEAST_OVERLAP = 0.5
"""However much a model amplifies rounding, below this IoU it is another mask."""

NOTE_EVERY = 8
"""Frames between two lines of progress."""

FREE = "left to itself"
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
    drifts: Sequence[Drift], tolerance: Tolerance, own: Sequence[Drift] | None, amplification: float
) -> list[DriftBound]:
    """The bounds of every answer: the tolerance's, or wider where torch's own drift, up to that answer, is so large.

    Args:
        drifts: of the programs' answers.
        own: of torch against itself with rounded weights; None: there is no excuse.
    """
    tight = DriftBound(tolerance.free, tolerance.iou, FREE)
    if own is None:
        return [tight] * len(drifts)
    bounds, error, gap = [], 0.0, 0.0
    for each in own:
        error, gap = max(error, each.error), max(gap, 1 - each.iou)
        wide = DriftBound(
            max(tolerance.free, amplification * error),
            min(tolerance.iou, max(1 - amplification * gap, LEAST_OVERLAP)),
            f"{FREE} (bound: {amplification:g} x torch's own drift with rounded weights)",
        )
        bounds.append(tight if wide[:2] == tight[:2] else wide)
    return bounds


class Rollouts(NamedTuple):
    """What the rollouts gave: numbers with their bounds, a row per answer, and torch's answers."""

    measures: list[Measure]
    rows: list[FrameRow]
    expected: list[Expected]


def compare_rollouts(
    reference: Reference,
    parts: Mapping[str, Part],
    programs: Mapping[str, Program],
    free: FreeAnswers,
    tolerance: Tolerance,
    *,
    excusable: bool,
    note: Note = lambda text: None,
) -> Rollouts:
    """All scenarios, frame by frame: the programs with their ring buffer and torch doing the same steps, then torch with its
    memory bank.

    Args:
        parts: the flat adapters.
        free: what torch has answered with its own bank, when other programs were judged; what it answers now is added.
        excusable: may the programs drift if torch does, with its weights rounded to half precision?
    """
    clip, gate, loop = reference.clip, reference.gate, reference.loop
    names, found = {role: part.name for role, part in parts.items()}, Rollouts([], [], [])
    encode = encoder_of(programs, clip, gate)
    for scenario in scenarios(clip, short_frames=gate.short_frames):
        tracker = ComparingTracker(programs, encode, reference, names, scenario.name, tolerance)
        drifts = _drifts(tracker, reference, scenario, free, note)
        far = any(each.error > tolerance.free or each.iou < tolerance.iou for each in drifts)
        own = None
        if far and excusable and gate.amplification > 0:
            rounded = {role: _rounded(part).run for role, part in parts.items()}
            recorder = RecordingTracker(rounded, loop, encoder_of(rounded, clip, gate))
            own = _drifts(recorder, reference, scenario, free, lambda text: note(f"{text}, torch with rounded weights"))
        bounds = drift_bounds(drifts, tolerance, own, gate.amplification)
        _add(found, tracker, drifts, bounds)
    seen = sum(row.pixels > 0 for row in found.rows) / len(found.rows)
    what = "share of answers with a mask at all"
    found.measures.append(Measure(names["track_step"], "all rollouts", what, seen, 0.0, at_least=True))
    return found


def compare_verbs(model: TrackAnything, parts: Mapping[str, Part], loop: RuntimeSpec, gate: GateConfig) -> Iterator[Measure]:
    """The flat adapters in torch, fp32, against the model's own verbs over short rollouts: is the rewriting exact?"""
    frames = min(gate.short_frames, VERB_FRAMES)
    clip, names = draw(frames, loop.size, seed=gate.seed), {role: part.name for role, part in parts.items()}
    reference, programs = Reference(model, loop, gate, clip), {role: part.run for role, part in parts.items()}
    encode, tolerance = encoder_of(programs, clip, gate), Tolerance(step=gate.adapters)
    for scenario in scenarios(clip, short_frames=frames):
        tracker = ComparingTracker(programs, encode, reference, names, scenario.name, tolerance)
        track(((tracker, RingBank(loop)),), scenario)
        for measure in tracker.measures:
            if not measure.at_least:
                yield dataclasses.replace(measure, part="adapters", where=f"{measure.where}, {measure.part}")


def _add(found: Rollouts, tracker: ComparingTracker, drifts: Sequence[Drift], bounds: Sequence[DriftBound]) -> None:
    """Add what one scenario gave."""
    found.measures.extend(tracker.measures)
    for row, drift, bound in zip(tracker.rows, drifts, bounds, strict=True):
        part = tracker.names["track_step" if drift.truth.prompts is None else "prompt_decoder"]
        where = f"rollout {tracker.name}, frame {drift.frame}"
        error = f"relative error of the candidates, {bound.why}"
        found.measures.append(Measure(part, where, error, drift.error, bound.error))
        found.measures.append(Measure(part, where, f"mask IoU with torch, {bound.why}", drift.iou, bound.iou, True))
        free = {"free_candidates": drift.error, "free_psnr": drift.psnr, "free_iou": drift.iou}
        found.rows.append(dataclasses.replace(row, **free))
        scores = drift.truth.iou.max().item(), drift.truth.presence.min().item()
        found.expected.append(Expected(tracker.name, drift.frame, drift.truth.best.half(), *scores, bound.iou))


def encoder_of(programs: Mapping[str, Program], clip: CheckClip, gate: GateConfig) -> Encode:
    """What the programs return for frame t of the clip; frames that all scenarios share are encoded once."""
    return once_for_shared_frames(lambda t: programs["image_encoder"]({"image": clip.frame(t).float()}), gate)


def _drifts(
    tracker: RecordingTracker, reference: Reference, scenario: Scenario, known: FreeAnswers, note: Note
) -> list[Drift]:
    """Track the scenario, and torch with a bank of its own after it; how far apart they are on every answer."""
    free = FreeReference(reference, tracker.answers, scenario.name, known)
    policy = RecallPolicy(num_pointers=reference.loop.num_pointers, past_pointers_only=True)
    track(((tracker, RingBank(reference.loop)), (free, MemoryBank(policy=policy))), scenario, note)
    return free.drifts


@torch.no_grad()
def track(
    trackers: Sequence[tuple[RecordingTracker | FreeReference, RingBank | MemoryBank]],
    scenario: Scenario,
    note: Note = lambda text: None,
) -> None:
    """All trackers over the scenario, one after the other on each frame, each with its bank: `rollout` for several."""
    script, banks = Script(scenario.entries), [bank for _, bank in trackers]
    order = script.order(scenario.num_frames)
    for t in order:
        if t % NOTE_EVERY == 0:
            note(f"rollout {scenario.name}, frame {t} of {scenario.num_frames}")
        for i, (tracker, _) in enumerate(trackers):
            features = tracker.see(t)
            output = observe(tracker, banks[i], features, t, script.at(t))  # type: ignore[arg-type]
            if t != order[-1]:  # the last one would never be read
                banks[i] = remember(tracker, banks[i], features, t, output)  # type: ignore[arg-type]


def _rounded(part: Part) -> Part:
    """The part with its weights, and nothing else, rounded to half precision."""
    module = copy.deepcopy(part.module)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.half().float())
    return dataclasses.replace(part, module=module)
