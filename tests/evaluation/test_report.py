"""Reports: which numbers they tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from edgetam_pl.evaluation.reporting.page import write_report
from edgetam_pl.evaluation.reporting.report import METRICS, Report
from edgetam_pl.evaluation.scoring import ObjectScore
from edgetam_pl.metrics.groups import SeenUnseen


class Recall(Metric):
    """The share of frames whose J is above one half, over objects (DAVIS)."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("found", "objects"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, j: tuple[tuple[float, ...], ...]) -> None:
        self.found += sum(float(np.mean(np.array(each) > 0.5)) for each in j)
        self.objects += len(j)

    def compute(self) -> dict[str, Tensor]:
        return {"J recall": 100 * self.found / self.objects}


def row(name: str, j: tuple[float, ...], group: str = "") -> ObjectScore:
    return ObjectScore("cat", name, ("1", "2"), j, (1.0, 1.0), group=group)


def test_a_metric_is_added_by_its_class_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING, "add a metric": it is in the headline, the files and the page; the other numbers stay."""
    rows = (row("1", (1.0, 0.0)), row("2", (0.8, 0.6)))
    before = Report("x", rows).headline()
    monkeypatch.setattr("edgetam_pl.evaluation.reporting.report.METRICS", [*METRICS, (Recall, lambda row: (row.j,))])
    report = Report("x", rows)
    assert report.headline() == {**before, "J recall": 75.0}
    page = write_report(report, tmp_path).read_text()
    assert "J recall" in page
    assert '"J recall": 75.0' in (tmp_path / "result.json").read_text()
    assert Report.read(tmp_path).headline() == report.headline()


def test_a_metric_that_takes_no_row_has_no_number() -> None:
    assert SeenUnseen in {kind for kind, _ in METRICS}
    alone, both = (
        Report("x", (row("1", (1.0, 1.0)),)),
        Report("x", (row("1", (1.0, 1.0), "seen"), row("2", (0.5, 0.5), "unseen"))),
    )
    assert alone.headline() == {"J&F": 100.0, "J": 100.0, "F": 100.0}
    assert both.headline()["G"] == 87.5
    assert np.isnan(Report("x", ()).jf)
