"""Metrics over groups of objects and over clicks."""

from __future__ import annotations

import math

import pytest
import torch

from edgetam_pl.metrics.clicks import ClickIoU
from edgetam_pl.metrics.groups import SeenUnseen

SQUARE = torch.zeros(2, 1, 20, 30, dtype=torch.bool)
SQUARE[:, :, 5:15, 5:15] = True


def test_g_is_the_mean_of_four_means() -> None:
    metric = SeenUnseen()
    metric.update([0.9, 0.7, 0.5], [0.8, 0.6, 0.3], [True, True, False])
    found = {name: round(value.item(), 6) for name, value in metric.compute().items()}
    assert found == {"g": (80 + 70 + 50 + 30) / 4, "j_seen": 80.0, "f_seen": 70.0, "j_unseen": 50.0, "f_unseen": 30.0}


def test_g_without_a_group_is_not_a_number() -> None:
    metric = SeenUnseen()
    metric.update([0.9], [0.8], [True])
    assert math.isnan(metric.compute()["g"].item())
    with pytest.raises(ValueError, match="one of each an object"):
        metric.update([0.9], [0.8, 0.7], [True])


def test_click_iou_is_pooled_over_masks_not_images() -> None:
    metric = ClickIoU(clicks=2)
    one, three = SQUARE[:1, 0], SQUARE[:1, 0].expand(3, -1, -1)
    metric.update(torch.stack([one, one]), one)
    metric.update(torch.stack([torch.zeros_like(three), three]), three)
    assert metric.compute().tolist() == [25.0, 100.0]
    with pytest.raises(ValueError, match=r"expected \(2, O, H, W\)"):
        metric.update(one[None], one)
