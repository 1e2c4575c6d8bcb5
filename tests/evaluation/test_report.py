"""Reports: which numbers they tell."""

from __future__ import annotations

import base64
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from edgetam_pl.evaluation.clips import Clip
from edgetam_pl.evaluation.protocols import Answer
from edgetam_pl.evaluation.reporting.charts import Line, chart
from edgetam_pl.evaluation.reporting.page import render, report_page, write_report
from edgetam_pl.evaluation.reporting.report import METRICS, Report
from edgetam_pl.evaluation.scoring import ObjectScore, ScoreRule
from edgetam_pl.evaluation.vos import evaluate_clip, repeat_first_mask
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


def test_a_report_says_on_how_many_frames_nothing_was_answered() -> None:
    """Frames that do not show the object do not count."""
    masks = np.zeros((5, 1, 16, 16), bool)
    masks[:4, :, 4:8, 4:8] = True
    clip = Clip.of_arrays("cat", np.zeros((5, 16, 16, 3), np.uint8), masks)
    answers = (Answer(t, masks[t] & (t not in (2, 3)), range(1)) for t in range(5))
    _, rows = evaluate_clip(clip, answers, ScoreRule(skip_first_and_last=False))
    report = Report("x", rows)
    assert rows[0].shown == (True, True, True, True, False)
    assert rows[0].answered == (True, True, False, False, False)
    assert report.unanswered == (2, 4)
    page = report_page(report)
    assert "nothing answered on 2 of 4 frames that show an object" in page
    assert "2 of 4</td>" in page


def test_the_first_mask_repeated_is_a_row_and_a_column(tmp_path: Path) -> None:
    masks = np.zeros((4, 1, 32, 32), bool)
    for t in range(4):
        masks[t, :, 4:12, 4 + 4 * t : 12 + 4 * t] = True  # it moves
    clip = Clip.of_arrays("cat", np.full((4, 32, 32, 3), 90, np.uint8), masks)
    rule = ScoreRule(skip_first_and_last=False)
    right = (Answer(t, masks[t], range(1)) for t in range(4))
    item, rows = evaluate_clip(clip, right, rule, baseline=True)
    report = Report("x", rows, (item,), {"protocol": "vos", "device": "abacus"})
    held = repeat_first_mask([clip], skip_first_and_last=False)
    assert report.repeated is not None
    assert report.repeated.headline() == pytest.approx(held.headline())
    assert report.headline()["J"] == 100 > held.j
    page = write_report(report, tmp_path).read_text()
    assert page.index("first mask repeated") < page.index("Sequences and objects")
    assert f"first mask repeated {held.jf:.1f}" in page
    again = Report.read(tmp_path)
    assert again == report, "with pictures, and the first mask's scores"
    assert again.sequences[0].film is not None
    assert page.count("<img") == 3  # film, chart, panels


def test_conditions_are_folded_at_the_end_and_unfold_in_print() -> None:
    page = report_page(Report("x", (row("1", (1.0, 0.0)),), conditions={"device": "abacus"}))
    assert page.index("Sequences and objects") < page.index("<details><summary>Conditions") < page.index("abacus")
    assert "beforeprint" in page
    assert "@media print" in page


def test_reports_of_before_are_read() -> None:
    """Without presence and without the first mask repeated."""
    values = Report("x", (row("1", (1.0, 0.0)),)).as_json()
    for old in values["rows"]:
        for name in ("shown", "answered", "repeated"):
            del old[name]
    report = Report.of_json(values)
    assert report.repeated is None
    assert report.unanswered == (0, 0)
    assert "nothing answered" not in report_page(report)


def test_a_small_number_of_a_tile_is_not_nought() -> None:
    tiles = render("run.html", {
        "title": "x", "live": False, "summary": "", "headline": {"J&F": 81.06, "clips a second": 0.031, "J": 0.0, "F": 0.2},
        "weights": "", "validation": None, "clips": [], "worst": {}, "panels": {}, "charts": [], "faults": [],
        "conditions": {},
    })  # fmt: skip
    assert re.findall(r"<b>([\d.]+)</b>", tiles) == ["81.1", "0.031", "0.0", "0.2"]


@pytest.mark.parametrize(("high", "labels"), [(4.0, {"3", "4"}), (30.0, {"5", "10", "20"}), (3000.0, {"10", "100", "1000"})])
def test_a_logarithmic_axis_has_values_to_read_by(high: float, labels: set[str]) -> None:
    drawn = chart([Line("loss", [0, 1], [2.5, high])], x_title="step", y_title="loss", logarithmic=True)
    assert drawn is not None
    svg = base64.b64decode(drawn.source.partition(",")[2]).decode()
    assert labels <= {*re.findall(r">([\d.]+)</text>", svg)}


def test_a_constant_is_drawn_without_a_warning() -> None:
    """Without any difference the axis has no ends of its own; matplotlib would warn and choose."""
    line = Line("rate", [0, 1, 2], [1e-3, 1e-3, 1e-3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = chart([line], x_title="step", y_title="rate", least_room=0)
    assert drawn is not None
    assert drawn.lines == [line]
