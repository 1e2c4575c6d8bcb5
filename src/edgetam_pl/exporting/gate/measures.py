"""How far one thing is from another, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """One number of the gate, and its bound."""

    part: str
    where: str
    """Which inputs, or which rollout and frame."""
    what: str
    value: float
    bound: float
    at_least: bool = False
    """Is the bound a minimum (PSNR, IoU)? Otherwise a maximum."""

    @property
    def ok(self) -> bool:
        if math.isnan(self.value):
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        return f"{self.part}, {self.where}: {self.what} is {self.value:.4g}, must be {side} {self.bound:.4g}"


@dataclass
class Verdict:
    """All numbers of a gate."""

    measures: list[Measure] = field(default_factory=list)

    def __iadd__(self, measures: Sequence[Measure]) -> Verdict:
        self.measures += measures
        return self

    @property
    def failures(self) -> list[Measure]:
        return [measure for measure in self.measures if not measure.ok]

    @property
    def ok(self) -> bool:
        return not self.failures

    def worst(self) -> dict[str, Measure]:
        """Of each part and quantity, the number nearest to its bound, or farthest beyond it."""
        found: dict[str, Measure] = {}
        for measure in self.measures:
            key = f"{measure.part} {measure.what}"
            known = found.get(key)
            if known is None or _badness(measure) > _badness(known):
                found[key] = measure
        return found


def _badness(measure: Measure) -> float:
    if math.isnan(measure.value):
        return math.inf
    return -measure.value if measure.at_least else measure.value


def relative_error(value: Tensor, truth: Tensor, *, least: float = 1e-12) -> float:
    """Largest difference as a share of the largest magnitude of the truth; infinite where the value is not finite.

    Args:
        least: the truth counts as at least this large. A single logit may be near zero, and then rounding is no error.
    """
    if not torch.isfinite(value).all():
        return math.inf
    return ((value - truth).abs().max() / truth.abs().max().clamp(min=least)).item()


def psnr(value: Tensor, truth: Tensor, *, least: float = 1e-12) -> float:
    """Peak signal to noise ratio in dB; the peak is the largest magnitude of the truth. 200 where nothing differs."""
    if not torch.isfinite(value).all():
        return -math.inf
    noise = (value - truth).double().pow(2).mean().sqrt().item()
    peak = max(truth.abs().max().item(), least)
    return 200.0 if noise == 0 else min(20 * math.log10(peak / noise), 200.0)


def iou(value: Tensor, truth: Tensor, *, pixels: int = 0) -> float:
    """IoU of two bool masks; 1 where they differ in at most `pixels` pixels."""
    if (value ^ truth).sum().item() <= pixels:
        return 1.0
    return (value & truth).sum().item() / (value | truth).sum().item()
