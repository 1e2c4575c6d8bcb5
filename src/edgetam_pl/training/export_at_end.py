"""Packages at the end of training: the same function as `edgetam export`, and never at the checkpoint's expense."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from edgetam_pl import weights
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.manifest import FILE as MANIFEST
from edgetam_pl.io import stop
from edgetam_pl.io.atomic import write_json
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.best import WEIGHTS

PACKAGES = "packages"
"""Folder of a run."""
SUMMARY = "export_summary.json"
"""Written beside the packages' folder: what became of the export, whether it passed or not."""


def is_exported(run: Path) -> bool:
    """Are this run's packages there, made of the weights.pt that is there, and passed? A refused export is tried again, and
    so is one whose summary is damaged."""
    try:
        made = json.loads((run / SUMMARY).read_bytes())
        return (
            made["passed"] is True
            and made["weights_sha256"] == sha256_of(run / WEIGHTS)
            and (run / PACKAGES / MANIFEST).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


@rank_zero_only
def export_at_end(model: TrackAnything, cfg: ExportConfig, logger: Logger | None = None) -> None:
    """Export weights.pt, which lies beside `cfg.out`, to `cfg.out`, unless that is done. On rank 0 alone. `model` is one to
    load them into: what was trained last need not be the best.

    Whatever goes wrong (a missing extra, a refused comparison, a full disk) is written into the run's summary and printed;
    it is never raised, because by then the checkpoint is what matters. A signal ends it at once: the run's next start makes
    the packages.

    Raises:
        stop.Stopped: a signal came.
    """
    run = Path(cfg.out).parent
    if is_exported(run):
        return
    stop.at_once("before its packages were made")
    digest = sha256_of(run / WEIGHTS)
    made = _export(weights.load_into(model, run / WEIGHTS), cfg, digest)
    stop.defer()
    write_json(run / SUMMARY, made | {"weights_sha256": digest, "config": asdict(cfg)}, indent=1)
    if logger is not None:
        logger.log_hyperparams({"export": {key: made[key] for key in ("passed", "message")}})


def _export(model: TrackAnything, cfg: ExportConfig, digest: str) -> dict[str, Any]:
    """`export_packages`, with every failure turned into a summary of it."""
    out = Path(cfg.out)
    try:
        from edgetam_pl.exporting.run import export_packages

        report = export_packages(model, out, cfg, checkpoint=WEIGHTS, checkpoint_sha256=digest)
    except Exception as error:  # noqa: BLE001  (the checkpoint is safe; the summary says what happened, with the traceback)
        print(f"export: refused or failed; the checkpoint is not affected. {error}", flush=True)
        return {"passed": False, "message": str(error), "out": str(out), "sizes": {}, "traceback": traceback.format_exc()}
    print(f"export: packages in {out}", flush=True)
    return {"passed": True, "message": f"packages in {out}", "out": str(out), "sizes": report.sizes}
