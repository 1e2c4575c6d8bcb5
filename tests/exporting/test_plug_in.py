"""The perceiver as a plug-in: EfficientTAM and SAM 2 with it pass the gate. What belongs to distillation is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exported import export, tiny

from edgetam_pl.commands.compose import model_config
from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting.run import suitable

STUDENTS = {
    "efficienttam": {"trunk": "vit_tiny", "neck": "single", "trunk_args": {"dim": 32, "heads": 2, "depth": 3, "window": 4}},
    "sam2.1": {
        "trunk": "sam2_hiera_tiny",
        "trunk_args": {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        "pointer_age": True,
        "occlusion_embedding": True,
    },
}


@pytest.mark.parametrize("name", list(STUDENTS))
def test_a_student_with_the_perceiver_plugged_in_is_exported(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    given: dict[str, Any] = STUDENTS[name]
    gate = GateConfig(frames=10, short_frames=10)
    found = export(ExportConfig(model=tiny(name=name, **given), backend="onnx", gate=gate), tmp_path / "packages")
    assert max(row.free_candidates for row in found.report.frames) < 1e-3
    assert {path.suffix for path in found.out.iterdir()} >= {".onnx"}


@pytest.mark.parametrize("name", ["efficienttam_ti", "efficienttam_s", "sam2.1_hiera_tiny", "sam2.1_hiera_small"])
def test_only_the_compressor_is_another(name: str) -> None:
    """So that load_parts=all_but_compressor starts the student from the released weights."""
    plain, plugged = model_config(name), model_config(f"{name}_perceiver")
    assert plugged.compressor.kind == "perceiver"
    plugged.name, plugged.compressor = plain.name, plain.compressor
    assert plugged == plain


@pytest.mark.parametrize(
    ("cfg", "named"),
    [
        (ExportConfig(model=tiny(), backend="onnx", options={"projection": True}), "belongs to the loss of distillation"),
        (ExportConfig(model=model_config("sam3_tracker"), backend="onnx"), "patches of 14 pixels.*It is a teacher"),
    ],
)
def test_what_belongs_to_distillation_is_not_exported(cfg: ExportConfig, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        suitable(cfg, tmp_path / "out")
