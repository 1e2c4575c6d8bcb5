"""Packages at the end of training: the same function as `edgetam export`, and never at the checkpoint's expense."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from edgetam_pl.config import ExportConfig
from edgetam_pl.io import stop
from edgetam_pl.io.atomic import write_json
from edgetam_pl.model.track_anything import TrackAnything

SUMMARY = "export_summary.json"
"""Written beside the packages' folder: what became of the export, whether it passed or not."""


def is_exported(run: Path) -> bool:
    """Were this run's packages made and passed? A refused export is tried again, and so is one whose summary is damaged."""
    try:
        return json.loads((run / SUMMARY).read_bytes())["passed"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False


@rank_zero_only
def export_at_end(model: TrackAnything, cfg: ExportConfig, logger: Logger | None = None) -> None:
    """Export a trained model to `cfg.out`, unless that is done. On rank 0 alone, when weights.pt is written.

    Whatever goes wrong (a missing extra, a refused comparison, a full disk) is written into the run's summary and printed;
    it is never raised, because by then the checkpoint is what matters. A signal ends it at once: the run's next start makes
    the packages.

    Raises:
        stop.Stopped: a signal came.
    """
    summary = Path(cfg.out).with_name(SUMMARY)
    if is_exported(summary.parent):
        return
    stop.at_once("before its packages were made")
    made = _export(model, cfg)
    stop.defer()
    write_json(summary, made | {"config": asdict(cfg)}, indent=1)
    if logger is not None:
        logger.log_hyperparams({"export": {key: made[key] for key in ("passed", "message")}})


def _export(model: TrackAnything, cfg: ExportConfig) -> dict[str, Any]:
    """`export_packages`, with every failure turned into a summary of it."""
    out = Path(cfg.out)
    try:
        from edgetam_pl.exporting.run import export_packages

        report = export_packages(model, out, cfg, checkpoint="end of training")
    except Exception as error:  # noqa: BLE001  (the checkpoint is safe; the summary says what happened, with the traceback)
        print(f"export: refused or failed; the checkpoint is not affected. {error}", flush=True)
        return {"passed": False, "message": str(error), "out": str(out), "sizes": {}, "traceback": traceback.format_exc()}
    print(f"export: packages in {out}", flush=True)
    return {"passed": True, "message": f"packages in {out}", "out": str(out), "sizes": report.sizes}
