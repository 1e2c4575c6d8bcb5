"""Several runtimes on the same model and the same rollouts: how far they are from torch and from each other."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from exported import export, filled_model, forgetful, tiny

from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting.gate.truth import Truth
from edgetam_pl.exporting.gate.witnesses import TORCH, compare_runtimes
from edgetam_pl.exporting.run import run

GATE = GateConfig(frames=5, short_frames=4)


def test_two_runtimes_stand_beside_torch_in_the_report_and_a_missing_one_says_why(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    cfg = ExportConfig(
        model=tiny(), backend="coreml", precision="fp32", golden=False, gate=GATE, witnesses=["onnx", "coreai"]
    )
    report = export(cfg, tmp_path / "packages").report
    found = {(row.one, row.other): row for row in report.witnesses.agreements}
    names = [TORCH, "coreml fp32", "onnx fp32"]
    if importlib.util.find_spec("coreai_torch") is None:
        assert "pip install 'edgetam-pl[coreai]'" in report.witnesses.absent["coreai"]
    else:
        names.append("coreai fp32")
    assert set(found) == {(one, other) for i, one in enumerate(names) for other in names[i + 1 :]}
    assert max(row.error for row in found.values()) < 1e-4
    assert min(row.iou for row in found.values()) == 1.0
    assert "coreml fp32 : onnx fp32" in report.table()


def test_a_runtime_that_computes_otherwise_is_far_from_all_others() -> None:

    cfg = ExportConfig(model=tiny(), gate=GATE)
    truth = Truth.of(filled_model(cfg.model), cfg)
    honest = {role: part.run for role, part in truth.parts.items()}
    wrong = honest | {"track_step": forgetful(honest["track_step"])}
    rows = compare_runtimes(truth, {"torch": honest, "twin": dict(honest), "wrong": wrong})
    assert [(row.one, row.other) for row in rows] == [("torch", "twin"), ("torch", "wrong"), ("twin", "wrong")]
    assert rows[0].error == 0.0
    assert rows[1].where.startswith("rollout ")
    assert min(row.error for row in rows[1:]) > 1e-3
    assert rows[1] == dataclasses.replace(rows[2], one="torch")


def test_an_unknown_witness_is_refused_before_anything_is_converted(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    cfg = ExportConfig(model=tiny(), weights="random", backend="onnx", witnesses=["onnx"], out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="witnesses is onnx; use one of"):
        run(cfg)
