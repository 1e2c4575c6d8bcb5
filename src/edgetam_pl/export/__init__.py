"""From a trained model to packages for phones, proven equal on the way (docs/export.md)."""

from edgetam_pl.export.report import ExportReport
from edgetam_pl.export.run import ExportRefused, export_packages, run

__all__ = ["ExportRefused", "ExportReport", "export_packages", "run"]
