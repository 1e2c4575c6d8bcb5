"""Stopping trials early by W&B's hyperband rule, from the validations that trainings write.

Not optuna's SuccessiveHalvingPruner or HyperbandPruner: a sweep file must stop the same trials with W&B's server and without
it. W&B compares the best value up to a band, keeps ceil(n / eta) of the n trials that reached it, and stops none before eta
have; optuna compares the value at the band, keeps floor(n / eta), and stops the second trial where it is not the best.
"""

from __future__ import annotations

import math
from pathlib import Path

from edgetam_pl.sweeps.sweep_config import Sweep


def should_stop(sweep: Sweep, out: Path, folder: Path) -> bool:
    """Whether the trial in `folder` is, at the last band it reached, not among the best 1/eta of those that reached it."""
    if sweep.stop is None:
        return False
    sign = 1.0 if sweep.maximize else -1.0
    curves = {path: [sign * value for value in validations(path, sweep.metric)] for path in (out / "trials").glob("*")}
    band = max((band for band in sweep.stop.bands if band <= len(curves[folder])), default=0)
    best = sorted((max(values[:band]) for values in curves.values() if len(values) >= band > 0), reverse=True)
    if len(best) < sweep.stop.eta:
        return False  # no band reached, or by too few trials to compare
    last_kept = best[math.ceil(len(best) / sweep.stop.eta) - 1]
    return max(curves[folder][:band]) < last_kept


def validations(folder: Path, metric: str) -> list[float]:
    """Values of a metric in the order in which a training validated; a line that is still being written is left out."""
    from edgetam_pl.training.curves import read_lines  # loads Lightning, which a report needs not

    return [float(line[metric]) for line in read_lines(folder / "validation" / "jf.jsonl") if metric in line]
