"""Stopping trials early: W&B's hyperband, from the validations that trainings write."""

from __future__ import annotations

import json
import math
from pathlib import Path

from edgetam_pl.sweeps.sweep_config import Sweep


def should_stop(sweep: Sweep, out: Path, folder: Path) -> bool:
    """Whether the trial in `folder` is, at the last band it reached, not among the best 1/eta of those that reached it."""
    assert sweep.stop is not None, "the sweep stops nothing early"
    mine = validations(folder, sweep.metric)
    reached = [band for band in sweep.stop.bands if band <= len(mine)]
    if not reached:
        return False
    band = reached[-1]
    sign = 1.0 if sweep.maximize else -1.0
    best = {path: _best(validations(path, sweep.metric), band, sign) for path in sorted((out / "trials").glob("*"))}
    others = sorted((value for value in best.values() if value is not None), reverse=True)
    if len(others) < sweep.stop.eta:
        return False  # too few to tell
    kept = others[: math.ceil(len(others) / sweep.stop.eta)]
    own = best[folder]
    return own is not None and own < kept[-1]


def validations(folder: Path, metric: str) -> list[float]:
    """Values of a metric in the order in which a training validated; a line that is being written is left out."""
    path = folder / "validation" / "jf.jsonl"
    values: list[float] = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            said = json.loads(line)
        except json.JSONDecodeError:
            break
        if metric in said:
            values.append(float(said[metric]))
    return values


def _best(values: list[float], band: int, sign: float) -> float | None:
    return max(sign * value for value in values[:band]) if len(values) >= band else None
