"""There and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from zoo import config, toy

from edgetam_pl.build import build_model
from edgetam_pl.inference.fuse import fuse
from edgetam_pl.weights import load_into, load_parts, save_official


def test_there_and_back_is_the_identity(tmp_path: Path) -> None:
    model, other = toy(seed=0), toy(seed=1)
    save_official(model, tmp_path / "a.pt")
    load_into(other, tmp_path / "a.pt")
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    save_official(other, tmp_path / "b.pt")
    a, b = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("a.pt", "b.pt"))
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_official_file_holds_official_names_in_float32(tmp_path: Path) -> None:
    model = toy()
    save_official(model.bfloat16(), tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert list(content) == ["model"]
    assert "sam_mask_decoder.conv_s0.weight" in content["model"]
    assert {tensor.dtype for tensor in content["model"].values()} == {torch.float32, torch.int64}  # BatchNorm counts batches


def test_loading_makes_the_models_equal_in_what_they_compute(tmp_path: Path) -> None:
    """Positions that derive from the Fourier matrix follow it."""
    model, other = toy(seed=0), build_model(config()).eval()
    save_official(model, tmp_path / "a.pt")
    load_into(other, tmp_path / "a.pt")
    with torch.inference_mode():
        features = model.encode(torch.randn(1, 3, 128, 128))
        a, b = (m.decode(features.f16, features, None) for m in (model, other))
    assert torch.equal(a.logits, b.logits)


def test_saving_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_official(toy(), tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()

    def fail(content: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_official(toy(seed=1), tmp_path / "a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == before


def test_a_fused_model_is_neither_saved_nor_loaded(tmp_path: Path) -> None:
    save_official(toy(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="fused"):
        save_official(fuse(toy()), tmp_path / "b.pt")
    with pytest.raises(ValueError, match="fused"):
        load_into(fuse(toy()), tmp_path / "a.pt")


def test_a_student_begins_as_its_teacher_but_for_the_compressor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, student = build_model(config("lite", compressor={"kind": "none"})), build_model(config("lite"))
    save_official(teacher, tmp_path / "teacher.pt")
    load_parts(student, tmp_path / "teacher.pt", "all_but_compressor")
    found = student.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in teacher.state_dict().items())


def test_images_take_along_what_stage_1_trains(tmp_path: Path) -> None:
    """Without a memory its own embedding is added to F16, so stage 1 trains that too; the rest of memory starts anew."""
    trained, fresh = tiny(0), tiny(1)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    save_official(trained, tmp_path / "a.pt")
    load_parts(fresh, tmp_path / "a.pt", "images")
    taken = {name for name, tensor in fresh.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "memory_attention.no_memory" in taken
    assert not [n for n in taken if n.startswith(("memory_encoder", "compressor", "memory_attention.blocks"))]
