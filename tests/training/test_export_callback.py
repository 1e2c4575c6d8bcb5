"""Packages at the end of training never cost the checkpoint, and the run's summary says what became of them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from zoo import toy

from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.report import ExportReport, PackageRow
from edgetam_pl.exporting.run import ExportRefused
from edgetam_pl.training.export_callback import SUMMARY, ExportOnFitEnd

RUN = import_module("edgetam_pl.exporting.run")  # the module; the package's attribute of that name is the function


class Fit(L.LightningModule):
    """One step that needs no data: what matters is how the fit ends."""

    def __init__(self) -> None:
        super().__init__()
        self.student = toy()
        self.scale = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return (self.scale * batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], lr=0.1)


def report(out: Path) -> ExportReport:
    rows = [PackageRow("A", "A.mlpackage", 7)]
    return ExportReport(str(out), "coreml", "fp16", True, rows, {}, {}, [], {})


def trainer(tmp_path: Path, callback: ExportOnFitEnd) -> L.Trainer:
    return L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[callback], enable_checkpointing=False,
    )  # fmt: skip


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=1)


def test_the_fit_ends_with_an_export_of_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: DataLoader[Any]
) -> None:
    seen: list[nn.Module] = []

    def export(model: nn.Module, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
        seen.append(model)
        return report(out)

    monkeypatch.setattr(RUN, "export_packages", export)
    callback = ExportOnFitEnd(ExportConfig(out=str(tmp_path / "packages")))
    module = Fit()
    trainer(tmp_path, callback).fit(module, loader)
    assert seen == [module.student]
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert summary["passed"]
    assert summary["sizes"] == {"A.mlpackage": 7}
    assert callback.summary["message"] == f"packages in {tmp_path / 'packages'}"


@pytest.mark.parametrize("problem", ["refused", "disk", "bug"])
def test_an_export_that_fails_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: DataLoader[Any], problem: str
) -> None:
    def export(model: nn.Module, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
        errors = {
            "refused": ExportRefused("the gate refused: TrackStep, frame 7", report(out)),
            "disk": OSError("No space left on device"),
            "bug": RuntimeError("a converter's own mistake"),
        }
        raise errors[problem]

    monkeypatch.setattr(RUN, "export_packages", export)
    callback = ExportOnFitEnd(ExportConfig(out=str(tmp_path / "packages")))
    run = trainer(tmp_path, callback)
    run.fit(Fit(), loader)
    run.save_checkpoint(tmp_path / "last.ckpt")  # the fit is whole
    summary = json.loads((tmp_path / SUMMARY).read_text())
    assert not summary["passed"]
    told = {"refused": "TrackStep, frame 7", "disk": "No space left", "bug": "a converter's own mistake"}[problem]
    assert told in summary["message"]
    assert "Traceback" in summary["traceback"]
    assert (tmp_path / "last.ckpt").is_file()


def test_an_interrupted_fit_exports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: DataLoader[Any]
) -> None:
    def export(*_: Any, **__: Any) -> ExportReport:
        raise AssertionError("exported an unfinished model")

    monkeypatch.setattr(RUN, "export_packages", export)

    class Stopped(ExportOnFitEnd):
        def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            trainer.state.status = TrainerStatus.INTERRUPTED
            super().on_fit_end(trainer, pl_module)

    callback = Stopped(ExportConfig(out=str(tmp_path / "packages")))
    trainer(tmp_path, callback).fit(Fit(), loader)
    assert callback.summary == {}
    assert not (tmp_path / SUMMARY).exists()


def test_only_rank_zero_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    def export(*_: Any, **__: Any) -> ExportReport:
        raise AssertionError("another rank exported")

    monkeypatch.setattr(RUN, "export_packages", export)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    callback = ExportOnFitEnd(ExportConfig(out=str(tmp_path / "packages")))
    callback.on_fit_end(trainer(tmp_path, callback), Fit())
    assert callback.summary == {}
    assert not (tmp_path / SUMMARY).exists()
