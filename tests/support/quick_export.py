"""`python quick_export.py train WORDS`: `edgetam`, whose export takes a second and depends on the weights alone.

For tests that kill it while it exports. The real export takes half a minute, most of it in the converter.
"""

from __future__ import annotations

import sys
import time
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetam_pl.commands.main import main
from edgetam_pl.config import ExportConfig
from edgetam_pl.exporting.manifest import FILE
from edgetam_pl.exporting.report import ExportReport, PackageRow
from edgetam_pl.io.atomic import atomic_path, write_json
from edgetam_pl.model.track_anything import TrackAnything


def export(model: TrackAnything, out: Path, cfg: ExportConfig, **_: Any) -> ExportReport:
    """Two files, slowly. The weights count, not their file, which names its run."""
    digest = sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())).hexdigest()
    with atomic_path(out) as draft:
        draft.mkdir()
        (draft / "A").write_text(digest)
        time.sleep(1)
        write_json(draft / FILE, {"parts": [{"name": "A", "sha256": digest}]})
    return ExportReport(str(out), "none", "fp32", True, [PackageRow("A", "A", 64)], {}, {}, [], {})


if __name__ == "__main__":
    import_module("edgetam_pl.exporting.run").export_packages = export  # type: ignore[attr-defined]
    sys.exit(main())
