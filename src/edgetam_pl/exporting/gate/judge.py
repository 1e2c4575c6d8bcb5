"""The gate as a whole: are the saved packages the checkpoint, part by part and over whole clips?"""

from __future__ import annotations

from collections.abc import Sequence

from edgetam_pl.config import ExportConfig, Tolerance
from edgetam_pl.exporting.backend import Backend
from edgetam_pl.exporting.gate.check import Answers, Bounds, compare_contrasts, compare_parts, largest_activations
from edgetam_pl.exporting.gate.measures import Verdict
from edgetam_pl.exporting.gate.rollouts import Note, Rollouts, compare_rollouts
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.parts import Saved


def judge(
    truth: Truth,
    backend: Backend,
    saved: Sequence[Saved],
    cfg: ExportConfig,
    verdict: Verdict,
    note: Note,
) -> Rollouts:
    """Judge saved programs part by part, over rollouts, and by their largest activations. All numbers go to `verdict`.

    Args:
        truth: torch's side; what it computes now is there for the next format.
    """
    parts, loop, found = truth.parts, truth.loop, truth.cases
    precision = backend.precision(cfg)
    tolerance, rounds = tolerance_of(cfg, precision), backend.rounds(precision)
    if rounds:
        stored, own = (
            Bounds("fp32 arithmetic", tolerance.stored),
            Bounds(precision, tolerance.part, tolerance.psnr, noise=False),
        )
    else:  # one arithmetic, which has to keep the bounds of both
        stored = own = Bounds(precision, min(tolerance.part, tolerance.stored), tolerance.psnr)
    note("part by part")
    programs = {each.part.role: backend.load(each, rounded=False) for each in saved}
    answers: Answers = {}
    verdict += list(compare_parts(parts, programs, found, stored, answers))
    verdict += list(compare_contrasts(parts, programs, loop, found, answers, tolerance))
    if rounds:  # otherwise the same programs would run the same inputs again
        programs = {each.part.role: backend.load(each, rounded=True) for each in saved}
        verdict += list(compare_parts(parts, programs, found, own))
    excusable = precision == "fp16" and cfg.compression == "none"
    rollouts = compare_rollouts(truth.reference, parts, programs, truth.free, tolerance, excusable=excusable, note=note)
    verdict += rollouts.measures
    verdict += list(largest_activations(parts, programs, backend, bound=cfg.gate.largest))
    return rollouts


def tolerance_of(cfg: ExportConfig, precision: str) -> Tolerance:
    """The bounds that this kind of export has to keep."""
    if cfg.compression in ("int8", "palette8"):
        return cfg.gate.eight_bits
    if cfg.compression != "none":
        return cfg.gate.few_bits
    return cfg.gate.exact if precision == "fp32" else cfg.gate.half
