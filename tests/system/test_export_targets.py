"""Other systems, precisions, compressions and models: each through its own gate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exported import Exported, export, tiny

from edgetam_pl.config import CompressorConfig, ExportConfig, GateConfig
from edgetam_pl.export.coreml import convert_part
from edgetam_pl.export.manifest import read
from edgetam_pl.export.mil_interpreter import Interpreter, load_program

ct = pytest.importorskip("coremltools")

QUICK = GateConfig(frames=6, short_frames=5)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All that iOS 18 allows at once: one package, fused attention, 8-bit weights."""
    cfg = ExportConfig(
        model=tiny(), system="ios18", attention="fused", multifunction=True, compression="int8", gate=QUICK, name="Tiny"
    )
    return export(cfg, tmp_path_factory.mktemp("merged") / "packages")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """SAM 2.1's switches and pooled memories, in single precision."""
    model = tiny(pointer_age=True, occlusion_embedding=True, compressor=CompressorConfig(kind="pooling", pool=2))
    return export(ExportConfig(model=model, precision="fp32", gate=QUICK), tmp_path_factory.mktemp("exact") / "packages")


def test_one_package_holds_all_programs_as_functions(merged: Exported) -> None:
    manifest = read(merged.out)
    packages = [path.name for path in merged.out.iterdir() if path.suffix == ".mlpackage"]
    assert packages == ["Tiny.mlpackage"]
    assert {entry.function for entry in manifest.parts} == set(load_program(merged.out / "Tiny.mlpackage").functions)
    assert {entry.function for entry in manifest.parts} == {entry.role for entry in manifest.parts}
    assert list(merged.report.sizes) == ["Tiny.mlpackage"]  # counted once
    with pytest.raises(ValueError, match=r"holds the functions .* say which one"):
        Interpreter.load(merged.out / "Tiny.mlpackage", rounded=True)


def test_fused_attention_is_one_operation(merged: Exported) -> None:
    functions = load_program(merged.out / "Tiny.mlpackage").functions
    kinds = {operation.op_type for operation in functions["track_step"].operations}
    assert "scaled_dot_product_attention" in kinds


def test_compressed_weights_pass_their_own_gate_and_tables_stay(merged: Exported) -> None:
    """F32: off by default; each kind has bounds of its own."""
    assert ExportConfig().compression == "none"
    thresholds = read(merged.out).thresholds
    assert thresholds["eight_bits"]["part"] > thresholds["half"]["part"]
    operations = load_program(merged.out / "Tiny.mlpackage").functions["track_step"].operations
    packed = [operation for operation in operations if operation.op_type.startswith("constexpr_")]
    assert packed
    readers = {child.op_type for operation in packed for child in operation.outputs[0].child_ops}
    assert readers <= {"conv", "linear"}  # rotation and position tables are no weights
    worst = merged.report.worst
    assert worst["TinyTrackStep relative error (fp16)"]["value"] < thresholds["eight_bits"]["part"]
    assert worst["TinyTrackStep relative error (fp16)"]["bound"] == thresholds["eight_bits"]["part"]


def _bytes(merged: Exported, role: str, folder: Path) -> int:
    part = merged.parts[role]
    path = folder / f"{part.name}.mlpackage"
    from edgetam_pl.export.coreml import compress
    from edgetam_pl.export.manifest import bytes_of

    compress(convert_part(part, precision="fp16", system="ios18"), "int8").save(str(path))
    return bytes_of(path)


def test_single_precision_equals_torch_to_rounding(exact: Exported) -> None:
    """The graph itself is proven: no rounding to hide behind."""
    assert exact.report.precision == "fp32"
    errors = {key: row["value"] for key, row in exact.report.worst.items() if "relative error" in key}
    assert errors
    assert max(value for key, value in errors.items() if "change" not in key) < 1e-4
    assert max(value for key, value in errors.items() if "change" in key) < 0.02
    assert min(row.iou for row in exact.report.frames) > 0.99


def test_sam21_asks_for_pointer_ages_and_presence(exact: Exported) -> None:
    manifest = read(exact.out)
    step = {feature.name: feature for feature in manifest.part("track_step").inputs}
    assert step["obj_ptr_age"].shape == (1, 16)
    assert step["obj_ptr_age"].dtype == "fp32"
    assert "obj_score" in {feature.name for feature in manifest.part("memory_encoder").inputs}
    assert manifest.loop.tokens == 16
    assert "obj_ptr_age: pointerAges" in (exact.out / "README.md").read_text()


def test_palettes_shrink_a_part_and_stay_within_their_bounds(merged: Exported, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from edgetam_pl.export.coreml import compress

    part = merged.parts["memory_encoder"]
    generator = torch.Generator().manual_seed(0)
    inputs = {"vision_features": torch.randn(1, 32, 8, 8, generator=generator), "binarize": torch.zeros(1)}
    inputs["mask_logits"] = 5 * torch.randn(1, 1, 32, 32, generator=generator)
    truth = part.run(inputs)["memory"]
    plain = convert_part(part, precision="fp16", system="ios18")
    for kind, bound in (("palette8", 0.1), ("palette6", 0.4), ("palette4", 0.9)):
        path = tmp_path / f"{kind}.mlpackage"
        compress(plain, kind).save(str(path))
        value = Interpreter.load(path, rounded=True)({**inputs})["memory"]
        assert (value - truth).abs().max() < bound * truth.abs().max(), kind
