"""mIoU after so many clicks: how Segment Anything is measured (SAM 2 Sec. 6.3; Table 1 of EdgeTAM)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from edgetam_pl.metrics.jf import Scores, region_similarity


class ClickIoU(Metric):
    """Mean IoU of the masks of one data set after 1 ... K clicks. States are sums of numbers, as in `JF`.

    >>> metric = ClickIoU(clicks=2)
    >>> truth = torch.ones(1, 4, 4, dtype=torch.bool)
    >>> half = truth & (torch.arange(4) < 2)
    >>> metric.update(torch.stack([half, truth]), truth)
    >>> metric.compute().tolist()
    [50.0, 100.0]
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    sums: Tensor
    num_masks: Tensor

    def __init__(self, *, clicks: int = 5) -> None:
        super().__init__()
        self.clicks = clicks
        self.add_state("sums", torch.zeros(clicks, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_masks", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add O masks of an image: predictions (K, O, H, W) after 1 ... K clicks, and the truth (O, H, W), both bool.

        Raises:
            ValueError: another number of clicks, or sizes that differ.
        """
        if prediction.shape != (self.clicks, *truth.shape):
            raise ValueError(
                f"Predictions of {tuple(prediction.shape)} for masks of {tuple(truth.shape)}; "
                f"expected ({self.clicks}, O, H, W) and (O, H, W)."
            )
        found, wanted = prediction.cpu().numpy(), truth.cpu().numpy()
        self.add(np.array([region_similarity(masks, wanted) for masks in found]))

    def add(self, iou: Scores) -> None:
        """Add O masks whose IoU after each click, in 0 ... 1, is known already: (K, O)."""
        self._update_count += 1  # to torchmetrics this is an update, after which a result that was kept is old
        self._computed = None
        self.sums += torch.from_numpy(iou.sum(axis=1)).to(self.sums)
        self.num_masks += iou.shape[1]

    def compute(self) -> Tensor:
        """(K,) mIoU in 0 ... 100; NaN when no rank has seen a mask."""
        return 100 * self.sums / self.num_masks
