"""Packages at the end of training never cost the checkpoint, and the run's summary says what became of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from trainings import training
from zoo import toy

from edgetam_pl import weights
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.manifest import FILE
from edgetam_pl.exporting.report import ExportReport, PackageRow
from edgetam_pl.exporting.run import ExportRefused
from edgetam_pl.io import stop
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.training import fit
from edgetam_pl.training.best import read_best
from edgetam_pl.training.export_at_end import SUMMARY, export_at_end, is_exported
from edgetam_pl.training.validation import Validation

RUN = import_module("edgetam_pl.exporting.run")  # the module; the package's attribute of that name is the function
State = dict[str, torch.Tensor]


def report(out: Path) -> ExportReport:
    rows = [PackageRow("A", "A.mlpackage", 7)]
    return ExportReport(str(out), "coreml", "fp16", True, rows, {}, {}, [], {})


def exported(seen: list[State], *, first: Callable[[], None] = lambda: None) -> Callable[..., ExportReport]:
    """In place of the export: notes the weights that it was given. `first` is done at its first call."""

    def export(model: nn.Module, out: Path, cfg: ExportConfig, *, checkpoint_sha256: str, **_: Any) -> ExportReport:
        assert checkpoint_sha256 == sha256_of(out.with_name("weights.pt"))
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        if len(seen) == 1:
            first()
        out.mkdir(exist_ok=True)
        (out / FILE).touch()
        return report(out)

    return export


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    pytest.fail("the signal waited for the export")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with weights."""
    weights.save_official(toy(), tmp_path / "weights.pt")
    return tmp_path


def test_the_weights_of_the_run_are_exported_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in weights.pt, which may be better than those that were trained last."""
    seen: list[State] = []
    monkeypatch.setattr(RUN, "export_packages", exported(seen))
    last = toy()
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.add_(1)
    for _ in range(2):
        export_at_end(last, ExportConfig(out=str(trained / "packages")))
    assert len(seen) == 1
    best = weights.load_into(toy(), trained / "weights.pt").state_dict()
    assert all(torch.equal(seen[0][name], best[name]) for name in best)
    summary = json.loads((trained / SUMMARY).read_text())
    assert summary["passed"]
    assert summary["sizes"] == {"A.mlpackage": 7}
    assert summary["message"] == f"packages in {trained / 'packages'}"


@pytest.mark.parametrize("problem", ["refused", "disk", "bug"])
def test_an_export_that_fails_is_told_and_not_raised(trained: Path, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    def export(model: nn.Module, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
        errors = {
            "refused": ExportRefused("the gate refused: TrackStep, frame 7", report(out)),
            "disk": OSError("No space left on device"),
            "bug": RuntimeError("a converter's own mistake"),
        }
        raise errors[problem]

    monkeypatch.setattr(RUN, "export_packages", export)
    export_at_end(toy(), ExportConfig(out=str(trained / "packages")))
    summary = json.loads((trained / SUMMARY).read_text())
    assert not summary["passed"]
    told = {"refused": "TrackStep, frame 7", "disk": "No space left", "bug": "a converter's own mistake"}[problem]
    assert told in summary["message"]
    assert "Traceback" in summary["traceback"]
    assert not is_exported(trained)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"passed": false}', '{"passed": true}', "[" * 100_000])
def test_a_damaged_summary_and_packages_of_other_weights_leave_the_export_due(
    trained: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(RUN, "export_packages", exported([]))
    assert not is_exported(trained)
    export_at_end(toy(), ExportConfig(out=str(trained / "packages")))
    assert is_exported(trained)
    summary = (trained / SUMMARY).read_text()
    (trained / SUMMARY).write_text(text)
    assert not is_exported(trained)
    (trained / SUMMARY).write_text(summary)
    assert is_exported(trained)
    shutil.move(trained / "packages", trained / "kept")
    assert not is_exported(trained)
    shutil.move(trained / "kept", trained / "packages")
    weights.save_official(toy(), trained / "weights.pt", {"version": "of a run that went on"})
    assert not is_exported(trained)


def test_only_rank_zero_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUN, "export_packages", lambda *_, **__: pytest.fail("another rank exported"))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    export_at_end(toy(), ExportConfig(out=str(tmp_path / "packages")))
    assert not (tmp_path / SUMMARY).exists()


def test_a_run_that_is_stopped_while_it_exports_keeps_its_weights_and_exports_at_the_next_start(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = training(shards, tmp_path, "export_on_end=true", phases="{frames:2,steps:1,batch:1,distil:false}")
    monkeypatch.setattr(RUN, "export_packages", exported([], first=stopped))
    with pytest.raises(stop.Stopped) as end:
        fit.run(cfg)
    assert end.value.code == stop.TRY_AGAIN
    kept = (tmp_path / "weights.pt").read_bytes()
    assert not (tmp_path / SUMMARY).exists()
    fit.run(cfg)
    assert is_exported(tmp_path)
    assert (tmp_path / "weights.pt").read_bytes() == kept


def test_packages_are_those_of_the_best_weights_also_of_a_run_that_was_ended_early_and_stopped_while_it_exported(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = iter([50.0, 40.0])
    monkeypatch.setattr(Validation, "add", lambda self, model, index: None)
    monkeypatch.setattr(Validation, "start", lambda self, device: setattr(self, "metric", Told(next(scores))))
    words = ["validation.every=1", "validation.root=toy:7:1", "validation.patience=1", "export_on_end=true"]
    cfg = training(shards, tmp_path, *words, phases="{frames:2,steps:3,batch:1,distil:false}")
    seen: list[State] = []
    monkeypatch.setattr(RUN, "export_packages", exported(seen, first=stopped))
    with pytest.raises(stop.Stopped):
        fit.run(cfg)
    assert read_best(tmp_path) == {"step": 1, "jf": 50, "ended": 2}
    fit.run(cfg)
    assert is_exported(tmp_path)
    best = torch.load(tmp_path / "weights.pt", weights_only=True)["model"]
    for given in seen:
        assert all(torch.equal(tensor, best[weights.official_name(name)]) for name, tensor in given.items())
    fit.run(cfg)
    assert len(seen) == 2
    assert "was ended before" in capsys.readouterr().out


class Told:
    """A metric that was told its score."""

    def __init__(self, score: float) -> None:
        self.score = score

    def compute(self) -> dict[str, float]:
        return dict.fromkeys(("j", "f", "jf"), self.score)
