"""Runtimes as witnesses of one another: the same model in several formats, on the same rollouts, each with its own bank.

Nobody follows anybody here, so where two candidates are as good as equal two runtimes may answer differently; the error
of the candidates, before one is chosen, then still tells whether they compute the same.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.client import RingBank
from edgetam_pl.exporting.clip import scenarios
from edgetam_pl.exporting.extras import MissingExtra
from edgetam_pl.exporting.gate.comparing_tracker import RecordingTracker, drift_of
from edgetam_pl.exporting.gate.rollouts import Note, encoder_of, track
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.parts import Program, Saved

TORCH = "torch, flat parts"

Programs = Mapping[str, Program]


@dataclass(frozen=True)
class Agreement:
    """How far two runtimes are apart, over all answers of all rollouts."""

    one: str
    other: str
    error: float
    """Largest difference of the candidate masks, as a share of the largest value of `one`."""
    iou: float
    """Lowest IoU of the answered masks."""
    where: str
    """Rollout and frame of the largest error."""


@dataclass(frozen=True)
class Witnesses:
    """What the runtimes say about each other, and which could not be asked."""

    agreements: tuple[Agreement, ...] = ()
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By format: why it was not asked."""


def call_witnesses(
    truth: Truth,
    backend: Backend,
    saved: Sequence[Saved],
    cfg: ExportConfig,
    witnesses: Sequence[Backend],
    note: Note = lambda text: None,
) -> Witnesses:
    """The saved programs, torch, and the same parts converted to the formats of `witnesses`: in the same precision where
    the format has it, else in fp32."""
    precision = backend.precision(cfg)
    programs: dict[str, Programs] = {TORCH: {role: part.run for role, part in truth.parts.items()}}
    programs[_name(backend, precision)] = {each.part.role: backend.load(each, rounded=True) for each in saved}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for witness in witnesses:
            legal = witness.choices.get("precision", (precision,))
            own = ExportConfig(model=cfg.model, backend=witness.name, precision=precision if precision in legal else "fp32")
            note(f"witness: {_name(witness, own.precision)}")
            place = Path(folder) / witness.name
            place.mkdir()
            try:
                made = witness.convert(tuple(truth.parts.values()), place, own)
                loaded = {each.part.role: witness.load(each, rounded=True) for each in made}
            except MissingExtra as missing:
                absent[witness.name] = str(missing)
                continue
            programs[_name(witness, own.precision)] = loaded
        return Witnesses(tuple(compare_runtimes(truth, programs, note)), absent)


def compare_runtimes(truth: Truth, runtimes: Mapping[str, Programs], note: Note = lambda text: None) -> list[Agreement]:
    """Every two of the runtimes, over all rollouts of the gate."""
    clip, gate, loop = truth.reference.clip, truth.gate, truth.loop
    encoders = {name: encoder_of(programs, clip, gate) for name, programs in runtimes.items()}
    found: dict[tuple[str, str], Agreement] = {}
    for scenario in scenarios(clip, short_frames=gate.short_frames):
        trackers = {name: RecordingTracker(programs, loop, encoders[name]) for name, programs in runtimes.items()}
        track([(tracker, RingBank(loop)) for tracker in trackers.values()], scenario, note)
        for one, other in combinations(trackers, 2):
            known = found.get((one, other), Agreement(one, other, -1.0, 1.0, ""))
            for truth_answer, answer in zip(trackers[one].answers, trackers[other].answers, strict=True):
                drift = drift_of(answer, truth_answer, pixels=gate.pixels)
                where = f"rollout {scenario.name}, frame {drift.frame}"
                if drift.error > known.error:
                    known = dataclasses.replace(known, error=drift.error, where=where)
                known = dataclasses.replace(known, iou=min(known.iou, drift.iou))
            found[one, other] = known
    return list(found.values())


def _name(backend: Backend, precision: str) -> str:
    return f"{backend.name} {precision}"
