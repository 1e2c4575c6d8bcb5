"""Other systems, precisions, compressions and models: each through its own gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import Exported, export, filled_model, tiny

from edgetam_pl.config import CompressorConfig, ExportConfig, GateConfig, ModelConfig
from edgetam_pl.exporting import coreml
from edgetam_pl.exporting.adapters import flatten, prepared
from edgetam_pl.exporting.coreml import convert_part, order_entries
from edgetam_pl.exporting.manifest import read
from edgetam_pl.exporting.mil_interpreter import WEIGHTS_FOLDER, Interpreter, load_program
from edgetam_pl.exporting.parts import Part
from edgetam_pl.exporting.run import ExportRefused

ct = pytest.importorskip("coremltools")

QUICK = GateConfig(frames=4, short_frames=4)


@pytest.fixture(scope="module")
def converted_once() -> Iterator[None]:
    """Every compression starts from the same conversion."""
    known: dict[tuple[str, str, str], Any] = {}

    def once(part: Part, *, precision: str, system: str) -> Any:
        key = (part.role, precision, system)
        if key not in known:
            known[key] = convert_part(part, precision=precision, system=system)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreml, "convert_part", once)
        yield


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, converted_once: None) -> Exported:
    """All that iOS 18 allows at once: one package, fused attention, 8-bit weights."""
    cfg = ExportConfig(
        model=tiny(), system="ios18", attention="fused", multifunction=True, compression="int8", gate=QUICK, name="Tiny"
    )
    return export(cfg, tmp_path_factory.mktemp("merged") / "packages")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """SAM 2.1's switches and memories as they are, in single precision."""
    model = tiny(pointer_age=True, occlusion_embedding=True, compressor=CompressorConfig(kind="none"))
    return export(ExportConfig(model=model, precision="fp32", gate=QUICK), tmp_path_factory.mktemp("exact") / "packages")


# --- one package ----------------------------------------------------------------------------------------------------------


def test_one_package_holds_all_programs_as_functions(merged: Exported) -> None:
    manifest = read(merged.out)
    packages = [path.name for path in merged.out.iterdir() if path.suffix == ".mlpackage"]
    assert packages == ["Tiny.mlpackage"]
    assert {entry.function for entry in manifest.parts} == set(load_program(merged.out / "Tiny.mlpackage").functions)
    assert {entry.function for entry in manifest.parts} == {entry.role for entry in manifest.parts}
    assert list(merged.report.sizes) == ["Tiny.mlpackage"]  # counted once
    with pytest.raises(ValueError, match=r"holds the functions .* name the one to run"):
        Interpreter.load(merged.out / "Tiny.mlpackage", rounded=True)


def test_every_function_of_the_package_runs_from_disk(merged: Exported) -> None:
    for saved in merged.saved:
        program = Interpreter.load(saved.path, function=saved.function, rounded=True)
        values = program(dict(zip((f.name for f in saved.part.inputs), saved.part.example(), strict=True)))
        assert {name: tuple(value.shape) for name, value in values.items()} == {
            feature.name: feature.shape for feature in saved.part.outputs
        }


def test_fused_attention_is_one_operation(merged: Exported) -> None:
    functions = load_program(merged.out / "Tiny.mlpackage").functions
    kinds = {operation.op_type for operation in functions["track_step"].operations}
    assert "scaled_dot_product_attention" in kinds


# --- compression ----------------------------------------------------------------------------------------------------------


def test_f32_compressed_weights_pass_their_own_gate_and_tables_stay(merged: Exported) -> None:
    """Off by default; each kind has bounds of its own."""
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


@pytest.mark.parametrize("kind", ["palette8", "palette6"])
def test_f32_palettes_pass_their_own_gate_and_shrink(merged: Exported, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sklearn")
    cfg = replace(merged.cfg, multifunction=False, compression=kind)
    small = export(cfg, tmp_path / kind, merged.model)
    assert small.report.passed
    role = next(saved for saved in small.saved if saved.part.role == "track_step")
    tolerance = cfg.gate.eight_bits if kind == "palette8" else cfg.gate.few_bits
    assert small.report.worst["TinyTrackStep relative error (fp16)"]["bound"] == tolerance.part
    plain = coreml.convert_part(role.part, precision="fp16", system="ios18")  # known already
    plain.save(str(tmp_path / "plain.mlpackage"))
    weights = [(path / WEIGHTS_FOLDER / "weight.bin").stat().st_size for path in (role.path, tmp_path / "plain.mlpackage")]
    assert weights[0] < weights[1]  # by little: most of so small a program are tables, which stay


def test_f32_weights_that_are_squeezed_too_hard_are_refused(merged: Exported, tmp_path: Path) -> None:
    """The same packages under the bounds of another kind: nothing is let through because it was asked for."""
    cfg = replace(merged.cfg, multifunction=False, compression="int8", gate=replace(QUICK, eight_bits=QUICK.exact))
    with pytest.raises(ExportRefused, match=r"TinyTrackStep|TinyImageEncoder"):
        export(cfg, tmp_path / "packages", merged.model)
    assert not (tmp_path / "packages").exists()


# --- single precision, SAM 2.1 --------------------------------------------------------------------------------------------


def test_single_precision_equals_torch_to_rounding(exact: Exported) -> None:
    """The graph itself is proven: no rounding to hide behind."""
    assert exact.report.precision == "fp32"
    errors = {key: row["value"] for key, row in exact.report.worst.items() if "relative error" in key}
    assert errors
    assert max(value for key, value in errors.items() if "change" not in key) < 1e-4
    assert max(value for key, value in errors.items() if "change" in key) < 0.02
    assert min(row.free_iou for row in exact.report.frames) > 0.99


def test_sam21_asks_for_pointer_ages_and_presence(exact: Exported) -> None:
    manifest = read(exact.out)
    step = {feature.name: feature for feature in manifest.part("track_step").inputs}
    assert step["obj_ptr_age"].shape == (1, 16)
    assert step["obj_ptr_age"].dtype == "fp32"
    assert "obj_score" in {feature.name for feature in manifest.part("memory_encoder").inputs}
    assert manifest.loop.tokens == 64  # memories of an 8 x 8 grid, as they are
    assert "obj_ptr_age: pointerAges" in (exact.out / "README.md").read_text()


# --- other models ---------------------------------------------------------------------------------------------------------


def _converts(cfg: ModelConfig, role: str, folder: Path) -> Interpreter:
    """The part of that role, converted, read back, and equal to torch on drawn inputs."""
    parts = {part.role: part for part in flatten(prepared(filled_model(cfg)), ExportConfig(model=cfg))}
    part, path = parts[role], folder / "part.mlpackage"
    convert_part(part, precision="fp32", system="ios17").save(str(path))
    generator = torch.Generator().manual_seed(1)
    inputs = {feature.name: torch.randn(feature.shape, generator=generator) for feature in part.inputs}
    if role == "image_encoder":
        inputs = {"image": torch.randint(0, 256, part.inputs[0].shape, generator=generator).float()}
    program = Interpreter.load(path, rounded=False)
    values, truths = program(inputs), part.run(inputs)
    for name, truth in truths.items():
        assert (values[name] - truth).abs().max() < 1e-4 * truth.abs().max(), name
    return program


@pytest.mark.parametrize(
    "compressor",
    [
        CompressorConfig(kind="pooling", pool=2),
        CompressorConfig(global_latents=0, spatial_latents=16, depth=1),
        CompressorConfig(global_latents=8, spatial_latents=64, depth=2),
        CompressorConfig(global_latents=32, spatial_latents=0, depth=1),
    ],
    ids=["pooling", "spatial", "more", "global"],
)
def test_memories_of_every_kind_and_size_convert(tmp_path: Path, compressor: CompressorConfig) -> None:
    """Whatever the sweep tries, it can export."""
    _converts(tiny(compressor=compressor), "memory_encoder", tmp_path)


@pytest.mark.parametrize("neck", ["single", "fpn"])
def test_plain_vit_trunks_convert_without_a_resize(tmp_path: Path, neck: str) -> None:
    """EfficientTAM's trunk, and the same as a student: positions are resized once, before conversion."""
    cfg = tiny(trunk="vit_tiny", neck=neck, image_size=256, trunk_args={"dim": 32, "heads": 2, "depth": 3})
    _converts(cfg, "image_encoder", tmp_path)
    operations = load_program(tmp_path / "part.mlpackage").functions["main"].operations
    assert not {kind for kind in (operation.op_type for operation in operations) if "resize" in kind or "bicubic" in kind}
    assert max(len(var.shape) for operation in operations for var in operation.outputs) <= 5


def test_a_package_does_not_depend_on_the_order_in_which_its_tables_were_filled(tmp_path: Path) -> None:
    written = []
    for names in ("abcdefgh", "hgfedcba"):
        program = ct.proto.Model_pb2.Model()
        for name in names:
            program.description.metadata.userDefined[name] = name
        package = tmp_path / names
        (package / "Data" / "com.apple.CoreML").mkdir(parents=True)
        path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
        path.write_bytes(program.SerializeToString())
        order_entries(package)
        written.append(path.read_bytes())
    assert written[0] == written[1]
