"""From a trained model to packages for phones, proven equal on the way (docs/export.md)."""

from edgetam_pl.exporting.report import ExportReport
from edgetam_pl.exporting.run import ExportRefused, export, export_packages, run

__all__ = ["ExportRefused", "ExportReport", "export", "export_packages", "run"]
