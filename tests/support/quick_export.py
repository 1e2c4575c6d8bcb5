"""`python quick_export.py train WORDS`: `edgetam`, whose export takes a second and depends on the weights alone.

For tests that kill it while it exports. The real export takes half a minute, most of it in the converter.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetam_pl.commands.main import main
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.manifest import FILE
from edgetam_pl.exporting.report import ExportReport, PackageRow
from edgetam_pl.io.atomic import atomic_path, write_json


def export(model: Any, out: Path, cfg: ExportConfig, *, checkpoint_sha256: str, **_: Any) -> ExportReport:
    """Two files, slowly."""
    with atomic_path(out) as draft:
        draft.mkdir()
        (draft / "A").write_text(checkpoint_sha256)
        time.sleep(1)
        write_json(draft / FILE, {"parts": [{"name": "A", "sha256": checkpoint_sha256}]})
    return ExportReport(str(out), "none", "fp32", True, [PackageRow("A", "A", 64)], {}, {}, [], {})


if __name__ == "__main__":
    import_module("edgetam_pl.exporting.run").export_packages = export  # type: ignore[attr-defined]
    sys.exit(main())
