"""What cannot be exported is refused early, by name, with the cure; nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from exported import filled_model, tiny

from edgetam_pl.config import CompressorConfig, ExportConfig, GateConfig
from edgetam_pl.exporting.adapters import flatten, prepared
from edgetam_pl.exporting.run import _refusal, export_packages, load, run

pytest.importorskip("coremltools")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ""}, "weights is empty; name a checkpoint"),
        ({"weights": "no/such/file.pt"}, "There is no checkpoint no/such/file.pt"),
        ({"size": 120}, r"image_size is 120; .* needs a multiple of 32"),
        ({"size": 96}, r"spatial_latents is 16; .* 6 x 6 memory"),
        ({"backend": "tflite"}, "backend is tflite; use one of coreai, coreml, executorch, litert, onnx"),
        ({"system": "ios12"}, "system is ios12; use one of ios17, ios18"),
        ({"precision": "int4"}, "precision is int4; use one of auto, fp16, fp32"),
        ({"attention": "fused"}, "attention=fused needs system=ios18"),
        ({"attention": "flash"}, "attention is flash; use one of decomposed, fused"),
        ({"multifunction": True}, "multifunction=true needs system=ios18"),
        ({"compression": "palette4"}, "compression=palette4 needs system=ios18"),
        ({"compression": "zip"}, "compression is zip; use one of none, int8"),
        ({"prompt_slots": 1}, "prompt_slots is 1; it must be at least 2"),
        ({"gate": GateConfig(frames=2)}, r"gate.frames and gate.short_frames must be at least 4"),
        ({"options": {"delegate": "gpu"}}, "backend=coreml has no options delegate; it has: none"),
        ({"backend": "coreai", "options": {"bank": "app"}}, "options.bank is app; use one of inputs, state"),
        (
            {"backend": "coreai", "options": {"bank": "state"}},
            "options.bank=state was tried in fp32 alone; give precision=fp32",
        ),
        ({"backend": "executorch", "options": {"delegate": "gpu"}}, "options.delegate is gpu; use one of xnnpack, coreml"),
        (
            {"backend": "executorch", "options": {"delegate": "coreml"}, "compression": "int8"},
            r"with \+options.delegate=coreml give compression=none, or take backend=coreml",
        ),
        (
            {"backend": "onnx", "compression": "int8"},
            "compression=int8 is a Core ML option; backend=onnx takes",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_cure(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    settings = {"model": tiny(), "weights": "random", "out": str(tmp_path / "out")} | changes
    cfg = ExportConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        run(cfg)
    assert list(tmp_path.iterdir()) == []


def test_the_input_size_is_a_matter_of_configuration() -> None:
    model, checkpoint, _ = load(ExportConfig(model=tiny(), weights="random", size=256))
    parts = {part.role: part for part in flatten(prepared(model), ExportConfig(model=tiny()))}
    assert checkpoint == "random"
    assert parts["image_encoder"].inputs[0].shape == (1, 3, 256, 256)
    assert parts["track_step"].output("low_res_mask").shape == (1, 1, 64, 64)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    from edgetam_pl.weights import save_official

    other = tiny(memory_blocks=2)
    save_official(filled_model(other), tmp_path / "other.pt")
    cfg = ExportConfig(model=tiny(), weights=str(tmp_path / "other.pt"), out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"other\.pt does not fit this model"):
        run(cfg)


def test_a_folder_that_no_export_wrote_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "holiday"
    out.mkdir()
    (out / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds files that no export wrote"):
        run(ExportConfig(model=tiny(), weights="random", out=str(out)))
    assert (out / "photo.jpg").read_bytes() == b"precious"


def test_an_unwritable_folder_is_refused_before_anything_is_converted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*choose a folder"):
        run(ExportConfig(model=tiny(), weights="random", out=str(tmp_path / "file" / "packages")))
    with pytest.raises(ValueError, match="is a file; name a folder"):
        run(ExportConfig(model=tiny(), weights="random", out=str(tmp_path / "file")))


def test_landmark_attention_is_refused(tmp_path: Path) -> None:
    cfg = tiny(cross_attention="landmarks", compressor=CompressorConfig(kind="none"))
    with pytest.raises(ValueError, match="export a model with cross_attention=full"):
        run(ExportConfig(model=cfg, weights="random", out=str(tmp_path / "out")))


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ValueError, match=r"coremltools is not installed.*pip install 'edgetam-pl\[export\]'"):
        export_packages(filled_model(tiny()), tmp_path / "out", ExportConfig(model=tiny()))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_checks_and_names_the_packages_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = ExportConfig(model=tiny(), weights="random", out=str(tmp_path / "out"), dry_run=True)
    assert run(cfg) is None
    assert "coreml fp16 of" in (said := capsys.readouterr().out)
    assert "track_step" in said.lower().replace("trackstep", "track_step")
    for change, message in (
        ({"system": "ios12"}, "system is ios12"),
        ({"backend": "tflite"}, "tflite"),
        ({"size": 120}, "120"),
    ):
        with pytest.raises(ValueError, match=message):
            run(replace(cfg, **change))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "compression", "cure"),
    [
        ("fp16", "none", "larger: precision=fp32."),
        ("fp16", "int8", "larger: compression=none or precision=fp32."),
        ("fp32", "none", "packages.refused.json."),
    ],
)
def test_a_refusal_of_the_gate_names_what_rounds_less(precision: str, compression: str, cure: str) -> None:
    assert _refusal([], Path("packages.refused.json"), precision, compression).rstrip().endswith(cure)
