"""Packages at the end of training never cost the checkpoint, and the run's summary says what became of them."""

from __future__ import annotations

import json
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from trainings import training
from zoo import toy

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.report import ExportReport, PackageRow
from edgetam_pl.exporting.run import ExportRefused
from edgetam_pl.io import stop
from edgetam_pl.training import fit
from edgetam_pl.training.export_at_end import SUMMARY, export_at_end, is_exported

RUN = import_module("edgetam_pl.exporting.run")  # the module; the package's attribute of that name is the function


def report(out: Path) -> ExportReport:
    rows = [PackageRow("A", "A.mlpackage", 7)]
    return ExportReport(str(out), "coreml", "fp16", True, rows, {}, {}, [], {})


def test_the_model_is_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def export(model: nn.Module, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
        seen.append(model)
        return report(out)

    monkeypatch.setattr(RUN, "export_packages", export)
    model = toy()
    for _ in range(2):
        export_at_end(model, ExportConfig(out=str(tmp_path / "packages")))
    assert seen == [model]
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert summary["passed"]
    assert summary["sizes"] == {"A.mlpackage": 7}
    assert summary["message"] == f"packages in {tmp_path / 'packages'}"


@pytest.mark.parametrize("problem", ["refused", "disk", "bug"])
def test_an_export_that_fails_is_told_and_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    def export(model: nn.Module, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
        errors = {
            "refused": ExportRefused("the gate refused: TrackStep, frame 7", report(out)),
            "disk": OSError("No space left on device"),
            "bug": RuntimeError("a converter's own mistake"),
        }
        raise errors[problem]

    monkeypatch.setattr(RUN, "export_packages", export)
    export_at_end(toy(), ExportConfig(out=str(tmp_path / "packages")))
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert not summary["passed"]
    told = {"refused": "TrackStep, frame 7", "disk": "No space left", "bug": "a converter's own mistake"}[problem]
    assert told in summary["message"]
    assert "Traceback" in summary["traceback"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", '{"passed": false}', '{"passed": "yes"}'])
def test_a_refused_export_and_a_damaged_summary_leave_the_export_due(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / SUMMARY).write_text(text)
    assert not is_exported(tmp_path)
    (tmp_path / SUMMARY).write_text('{"passed": true}')
    assert is_exported(tmp_path)


def test_only_rank_zero_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUN, "export_packages", lambda *_, **__: pytest.fail("another rank exported"))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    export_at_end(toy(), ExportConfig(out=str(tmp_path / "packages")))
    assert not (tmp_path / SUMMARY).exists()


def test_a_run_that_is_stopped_while_it_exports_keeps_its_weights_and_exports_at_the_next_start(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = training(shards, tmp_path, "export_on_end=true", phases="{frames:2,steps:1,batch:1,distil:false}")
    begun: list[str] = []

    def export(model: nn.Module, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
        begun.append("once more")
        if len(begun) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the signal waited for the export")
        return report(out)

    monkeypatch.setattr(RUN, "export_packages", export)
    with pytest.raises(stop.Stopped) as end:
        fit.run(cfg)
    assert end.value.code == stop.TRY_AGAIN
    weights = (tmp_path / "weights.pt").read_bytes()
    assert not (tmp_path / SUMMARY).exists()
    fit.run(cfg)
    assert json.loads((tmp_path / SUMMARY).read_text())["passed"]
    assert (tmp_path / "weights.pt").read_bytes() == weights
