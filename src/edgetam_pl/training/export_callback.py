"""Packages at the end of training: the same function as `edgetam export`, and never at the checkpoint's expense."""

from __future__ import annotations

import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from edgetam_pl.config import ExportConfig
from edgetam_pl.io.atomic import write_json
from edgetam_pl.model.track_anything import TrackAnything

SUMMARY = "export_summary.json"
"""Written beside the packages' folder: what became of the export, whether it passed or not."""


class ExportOnFitEnd(L.Callback):
    """Exports the trained model when `fit` ends, on rank 0.

    Whatever goes wrong (a missing extra, a refused comparison, a full disk) is written into the run's summary and printed;
    it is never raised, because by then the checkpoint is what matters.

    Args:
        cfg: what to export to. `out` is the folder of the packages; `weights` is not read.
        student: name of the module's attribute that holds the model.
    """

    def __init__(self, cfg: ExportConfig, *, student: str = "student") -> None:
        self.cfg = cfg
        self.student = student
        self.summary: dict[str, Any] = {}

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.interrupted:
            return  # a stopped run continues later; its packages come then
        model = pl_module.get_submodule(self.student)
        self.summary = export_quietly(model, self.cfg)
        for logger in trainer.loggers:
            logger.log_hyperparams({"export": {key: self.summary[key] for key in ("passed", "message")}})


def export_quietly(model: nn.Module, cfg: ExportConfig) -> dict[str, Any]:
    """`export_packages`, with every failure turned into a summary of it."""
    out = Path(cfg.out)
    try:
        from edgetam_pl.exporting.run import export_packages

        assert isinstance(model, TrackAnything), f"only a TrackAnything can be exported, not a {type(model).__name__}"
        report = export_packages(model, out, cfg, checkpoint="end of training")
    except Exception as error:  # noqa: BLE001  (the checkpoint is safe; the summary says what happened, with the traceback)
        summary = {"passed": False, "message": str(error), "out": str(out), "sizes": {}, "traceback": traceback.format_exc()}
        print(f"export: refused or failed; the checkpoint is not affected. {error}", flush=True)
    else:
        summary = {"passed": True, "message": f"packages in {out}", "out": str(out), "sizes": report.sizes}
        print(f"export: packages in {out}", flush=True)
    write_json(out.with_name(SUMMARY), summary | {"config": asdict(cfg)}, indent=1)
    return summary
