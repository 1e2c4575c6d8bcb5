"""Sweeps without a file and outcomes without a training, for tests."""

from __future__ import annotations

from edgetam_pl.sweeps.outcomes import Outcome
from edgetam_pl.sweeps.sweep_config import ARGUMENTS, Sweep, distribution


def sweep(parameters: dict[str, dict[str, object]], *, method: str = "grid") -> Sweep:
    space = {key: distribution(key, given) for key, given in parameters.items()}
    return Sweep("s", method, "trial/jf", True, space, ("scale=toy", ARGUMENTS), None, None, {})


def outcome(name: str, jf: float, ms: float, *words: str) -> Outcome:
    model = {"kind": "perceiver", "global_latents": 1, "spatial_latents": 1}
    return Outcome(name, "finished", words, {"trial/jf": jf, "trial/latency_ms/step": ms}, {"model": model, "cost": {}})
