"""G of YouTube-VOS and LVOS: the mean of J and F over objects of seen and of unseen categories."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from edgetam_pl.metrics.jf import Scores


class SeenUnseen(Metric):
    """J and F of seen and unseen objects, averaged apart, and G = (J_seen + J_unseen + F_seen + F_unseen) / 4.

    States are sums of numbers, as in `JF`.

    >>> metric = SeenUnseen()
    >>> metric.update([0.8, 0.6], [0.9, 0.7], [True, False])
    >>> round(metric.compute()["g"].item(), 6)
    75.0
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    sums: Tensor
    num_objects: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")  # (seen, unseen) x (J, F)
        self.add_state("num_objects", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, j: Scores | Sequence[float], f: Scores | Sequence[float], seen: Sequence[bool]) -> None:
        """Add objects by their means over frames in 0 ... 1: (O,) each.

        Raises:
            ValueError: the lengths differ.
        """
        if not len(j) == len(f) == len(seen):
            raise ValueError(f"{len(j)} values of J, {len(f)} of F and {len(seen)} groups; expected one of each an object.")
        for object_j, object_f, object_seen in zip(j, f, seen):
            group = 0 if object_seen else 1
            self.sums[group] += torch.tensor([object_j, object_f], dtype=torch.float64, device=self.sums.device)
            self.num_objects[group] += 1

    def compute(self) -> dict[str, Tensor]:
        """`g`, `j_seen`, `j_unseen`, `f_seen`, `f_unseen` in 0 ... 100; NaN where a group is empty."""
        means = 100 * self.sums / self.num_objects[:, None]
        return {
            "g": means.mean(),
            "j_seen": means[0, 0],
            "j_unseen": means[1, 0],
            "f_seen": means[0, 1],
            "f_unseen": means[1, 1],
        }
