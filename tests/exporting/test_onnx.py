"""The second backend: the same parts as ONNX, judged by the same gate under onnxruntime."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from exported import Exported, export, forgetful, tiny

from edgetam_pl.config import ExportConfig, GateConfig
from edgetam_pl.exporting import validate_on_mac
from edgetam_pl.exporting.backends import BACKENDS, backend_of
from edgetam_pl.exporting.manifest import read
from edgetam_pl.exporting.onnx import Onnx
from edgetam_pl.exporting.run import ExportRefused, export_packages

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One export of a small model, with the full gate of 64 frames."""
    return export(ExportConfig(model=tiny(), backend="onnx"), tmp_path_factory.mktemp("export") / "packages")


def test_all_64_frames_of_the_rollouts_equal_torch(exported: Exported) -> None:
    frames = exported.report.frames
    assert {row.frame for row in frames if row.rollout == "click"} == set(range(64))
    assert max(row.free_candidates for row in frames) < 1e-3  # torch with a bank of its own
    assert min(row.free_iou for row in frames) > 0.99
    assert max(row.candidates for row in frames) < 1e-3
    assert sum(row.pixels > 0 for row in frames) > 60


def test_files_say_what_the_manifest_says(exported: Exported) -> None:
    manifest = read(exported.out)
    kinds = {1: "fp32", 6: "int32", 10: "fp16"}
    assert manifest.backend == "onnx"
    for entry in manifest.parts:
        model = onnx.load(str(exported.out / entry.file))
        for side, features in ((model.graph.input, entry.inputs), (model.graph.output, entry.outputs)):
            assert [value.name for value in side] == [feature.name for feature in features]
            for value, feature in zip(side, features, strict=True):
                assert kinds[value.type.tensor_type.elem_type] == feature.dtype
                assert tuple(side.dim_value for side in value.type.tensor_type.shape.dim) == feature.shape
                assert value.doc_string == feature.meaning
        assert {prop.key: prop.value for prop in model.metadata_props}["edgetam_pl.role"] == entry.role


def test_the_gate_refuses_a_program_that_forgets(exported: Exported) -> None:
    failures = [str(measure) for measure in exported.judge({"track_step": forgetful}).failures]
    assert any(text.startswith("EdgeTAMTrackStep, full bank") for text in failures)
    assert any("rollout click, frame 1:" in text for text in failures)


def weight_bytes(folder: Path) -> int:
    """Bytes of the stored weights of all files; a tiny model's files are mostly the graph's text."""
    graphs = [onnx.load(str(path)).graph for path in folder.glob("*.onnx")]
    return sum(len(onnx.numpy_helper.to_array(tensor).tobytes()) for graph in graphs for tensor in graph.initializer)


def test_half_precision_files_hold_half_the_weight_and_pass_their_own_gate(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = ExportConfig(model=tiny(), backend="onnx", precision="fp16", gate=GateConfig(frames=6, short_frames=5))

    def convert(self: Onnx, parts: object, folder: Path, config: ExportConfig) -> tuple[object, ...]:
        saved = []
        for each in exported.saved:  # the fp32 files are there already
            path = folder / each.path.name
            onnx.save(self._halved(onnx.load(str(each.path)), each.part), str(path))
            saved.append(each.__class__(each.part, path))
        return tuple(saved)

    monkeypatch.setattr(Onnx, "convert", convert)
    report = export_packages(exported.model, tmp_path / "half", cfg)
    full = exported.saved[0].path.parent
    assert weight_bytes(tmp_path / "half") < 0.55 * weight_bytes(full)
    assert sum(report.sizes.values()) < sum(exported.report.sizes.values())
    assert report.precision == "fp16"


def test_a_file_that_was_damaged_is_refused(exported: Exported, tmp_path: Path) -> None:
    changed = []
    for saved in exported.saved:
        path = tmp_path / saved.path.name
        shutil.copyfile(saved.path, path)
        changed.append(saved.__class__(saved.part, path))
    path = tmp_path / "EdgeTAMMemoryEncoder.onnx"
    model = onnx.load(str(path))
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = bytes(len(largest.raw_data))
    onnx.save(model, str(path))
    failures = [str(measure) for measure in exported.judge({}, saved=changed).failures]
    assert any(text.startswith("EdgeTAMMemoryEncoder") for text in failures)


def test_another_runtime_is_a_line_in_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Elsewhere(Onnx):
        name = "elsewhere"
        needs = ("a_runtime_that_is_not_installed",)

    monkeypatch.setitem(BACKENDS, "elsewhere", Elsewhere)
    assert backend_of("elsewhere").name == "elsewhere"
    with pytest.raises(ValueError, match="a_runtime_that_is_not_installed is not installed"):
        export_packages(None, tmp_path / "out", ExportConfig(model=tiny(), backend="elsewhere"))  # type: ignore[arg-type]


def test_a_refused_onnx_export_leaves_nothing(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(self: Onnx, parts: object, folder: Path, config: ExportConfig) -> tuple[object, ...]:
        for each in exported.saved:
            shutil.copyfile(each.path, folder / each.path.name)
        return tuple(each.__class__(each.part, folder / each.path.name) for each in exported.saved)

    monkeypatch.setattr(Onnx, "convert", convert)
    cfg = ExportConfig(model=tiny(), backend="onnx", gate=GateConfig(frames=4, short_frames=4))
    cfg.gate.exact.iou = 1.01
    with pytest.raises(ExportRefused, match=r"rollout click, frame \d: mask IoU with torch"):
        export_packages(exported.model, tmp_path / "out", cfg)
    assert not (tmp_path / "out").exists()


def test_the_script_in_the_folder_holds_onnxruntime_to_the_golden_files(
    exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate_on_mac.main([str(exported.out), "--runs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("passed: ")
    assert all(f"{role} " in printed for role in ("image_encoder", "track_step"))


def test_the_script_names_the_runtime_that_it_lacks(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert validate_on_mac.main([str(exported.out)]) == 2
    assert "onnxruntime is not installed: pip install onnxruntime numpy" in capsys.readouterr().out
