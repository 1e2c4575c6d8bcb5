"""Checkpoints: there and back, and what is said about those that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from zoo import config, lively, toy

from edgetam_pl.build import build_model
from edgetam_pl.inference.fuse import fuse
from edgetam_pl.weights import NAMES, load_into, load_parts, load_trunk, official_name, save_official, seems_to_be


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


def test_training_checkpoints_of_ours_are_read(tmp_path: Path) -> None:
    model, other = toy(seed=0), toy(seed=1)
    state = {f"student.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {"state_dict": state | {"objective.scale": torch.ones(1)}, "epoch": 3, "notes": {"a": [1, "b"]}}, tmp_path / "x.ckpt"
    )
    load_into(other, tmp_path / "x.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_every_row_of_the_table_is_used() -> None:
    """A row that no model needs is a mistake in waiting."""
    used = set()
    with torch.device("meta"):
        models = [build_model(config(name)) for name in ("edgetam", "sam2.1_hiera_tiny", "efficienttam_ti")]
    rows = dict(NAMES)
    for model in models:
        for name in model.state_dict():
            theirs = official_name(name)
            used |= {ours for ours in rows if _below(name, ours) and _below(theirs, rows[ours])}
    assert used == set(rows)


def test_a_model_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        tiny = build_model(config("sam2.1_hiera_tiny"))
    state = {official_name(name): torch.zeros(()).expand(tensor.shape) for name, tensor in tiny.state_dict().items()}
    torch.save({"model": state}, tmp_path / "sam2.pt")
    with pytest.raises(ValueError, match=r"weights of sam2.1_hiera_tiny: use model=sam2.1_hiera_tiny") as caught:
        load_into(toy(), tmp_path / "sam2.pt")
    message = str(caught.value)
    assert "missing: " in message
    assert "unexpected: " in message
    missing = message.split("missing: ")[1].split(";")[0]
    assert missing.count(",") == 5  # five names, then dots
    assert missing.endswith("...")


@pytest.mark.parametrize(
    "name",
    ["edgetam", "sam2_hiera_large", "sam2.1_hiera_small", "sam2.1_hiera_base_plus", "efficienttam_s", "efficienttam_ti"],
)
def test_official_weights_are_recognised(name: str) -> None:
    with torch.device("meta"):
        model = build_model(config(name))
    assert seems_to_be({official_name(key): tensor for key, tensor in model.state_dict().items()}) == name


def test_unknown_weights_are_not_guessed_at() -> None:
    assert seems_to_be({"backbone.weight": torch.zeros(1)}) is None


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_official(toy(memory_ffn=96), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"layers.0.linear1.weight \(96, 64\) instead of \(128, 64\)"):
        load_into(toy(), tmp_path / "a.pt")


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint .*nowhere.pt"):
        load_into(toy(), tmp_path / "nowhere.pt")


@pytest.mark.parametrize("keep", [0, 10, 5000, -100])
def test_a_truncated_file_is_recognised(tmp_path: Path, keep: int) -> None:
    save_official(toy(), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[:keep])
    with pytest.raises(ValueError, match="truncated"):
        load_into(toy(), tmp_path / "a.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": Path("/")}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="plain tensors"):
        load_into(toy(), tmp_path / "a.pt")


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="neither 'model'"):
        load_into(toy(), tmp_path / "a.pt")


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


@pytest.mark.parametrize("trunk", ["repvit_m1", "sam2_hiera_tiny", "vit_tiny"])
def test_a_classifier_of_timm_starts_the_trunk(tmp_path: Path, trunk: str) -> None:
    sizes = {
        "repvit_m1": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
        "sam2_hiera_tiny": {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        "vit_tiny": {"dim": 16, "heads": 2, "depth": 3},
    }[trunk]
    torch.manual_seed(0)
    model = build_model(config(trunk=trunk, trunk_args=sizes))
    body = model.image_encoder.trunk.body
    prefix = {"repvit_m1": "", "sam2_hiera_tiny": "model.", "vit_tiny": "vit."}[trunk]
    classifier: dict[str, Tensor] = {
        name.removeprefix(prefix).replace("stages_", "stages."): torch.full_like(tensor, 3)
        for name, tensor in body.state_dict().items()
        if not name.startswith("to_")
    }
    torch.save(classifier | {"head.fc.weight": torch.zeros(10, 32)}, tmp_path / "timm.pth")
    load_trunk(model, tmp_path / "timm.pth")
    assert all((tensor == 3).all() for name, tensor in body.state_dict().items() if not name.startswith("to_"))
    del classifier[next(iter(classifier))]
    torch.save(classifier, tmp_path / "lacking.pth")
    with pytest.raises(ValueError, match="1 missing"):
        load_trunk(model, tmp_path / "lacking.pth")


@pytest.mark.parametrize(("name", "classifier"), [("edgetam", "repvit_m1"), ("edgetam_vit_tiny", "vit_tiny_patch16_224")])
def test_names_and_shapes_are_those_of_the_real_classifiers(tmp_path: Path, name: str, classifier: str) -> None:
    torch.save(timm.create_model(classifier, pretrained=False).state_dict(), tmp_path / "timm.pth")
    load_trunk(build_model(config(name)), tmp_path / "timm.pth")


def test_a_classifier_in_other_names_is_matched_in_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    renamed = {f"_entry{i}.{name.rsplit('.', 1)[1]}": tensor for i, (name, tensor) in enumerate(theirs.items())}
    torch.save(renamed, tmp_path / "other.pth")
    model = build_model(config("lite", image_size=64, compressor={"kind": "none"}))
    load_trunk(model, tmp_path / "other.pth")
    assert all(torch.equal(t, theirs[name]) for name, t in model.image_encoder.trunk.body.state_dict().items())
    swapped = dict(zip(renamed, reversed(renamed.values()), strict=True))
    torch.save(swapped, tmp_path / "swapped.pth")
    with pytest.raises(ValueError, match="entry by entry"):
        load_trunk(model, tmp_path / "swapped.pth")
    torch.save(dict(list(renamed.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(ValueError, match="cannot be matched in order"):
        load_trunk(model, tmp_path / "short.pth")


def test_a_student_begins_as_its_teacher_but_for_the_compressor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, student = build_model(config("lite", compressor={"kind": "none"})), build_model(config("lite"))
    save_official(teacher, tmp_path / "teacher.pt")
    load_parts(student, tmp_path / "teacher.pt", "all_but_compressor")
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in teacher.state_dict().items())


def test_a_masked_autoencoder_starts_a_plain_vit(tmp_path: Path) -> None:
    """The layout of MAE's files: below "model", with a class token, a last norm and a decoder that nobody needs."""
    torch.manual_seed(0)
    model = build_model(config("edgetam_vit_tiny"))
    encoder = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).state_dict()
    decoder = {"mask_token": torch.zeros(1, 1, 64), "decoder_blocks.0.norm1.weight": torch.zeros(64)}
    torch.save({"model": encoder | decoder, "epoch": 800}, tmp_path / "mae.pth")
    load_trunk(model, tmp_path / "mae.pth")
    vit = model.image_encoder.trunk.body.get_submodule("vit").state_dict()
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in vit.items())
    # its positions still speak of the class token first, and are resized without it
    assert torch.equal(vit["pos_embed"], encoder["pos_embed"])


def test_safetensors_start_the_trunk_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, other = build_model(config()), build_model(config())
    lively(model)
    body = model.image_encoder.trunk.body
    save_file({name.replace("stages_", "stages."): t for name, t in body.state_dict().items()}, tmp_path / "a.safetensors")
    load_trunk(other, tmp_path / "a.safetensors")
    for a, b in zip(body.state_dict().values(), other.image_encoder.trunk.body.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def _below(name: str, row: str) -> bool:
    """Does a row of the table speak for this name? Numbers stand for {i}."""
    parts, wanted = name.split("."), row.split(".")
    return len(parts) >= len(wanted) and all(
        w == p or (w == "{i}" and p.isdigit()) for p, w in zip(parts, wanted, strict=False)
    )
