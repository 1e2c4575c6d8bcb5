"""Checkpoints: there and back, and what is said about those that do not fit."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from zoo import TINY, config, lively, toy

from edgetam_pl.build import build_model, load_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.inference.fuse import fuse
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import (
    NAMES,
    contents,
    from_huggingface,
    load_into,
    load_parts,
    load_trunk,
    official_name,
    official_of_huggingface,
    recorded_config,
    save_official,
    seems_to_be,
    to_huggingface,
)


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
        models = [build_model(config(name)) for name in ("edgetam", "sam2.1_hiera_tiny", "efficienttam_ti", "sam3_tracker")]
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


# ---------------------------------------------------------------------- files that people have


@cache
def built(seed: int, image_size: int) -> TrackAnything:
    torch.manual_seed(seed)
    return build_model(replace(TINY, image_size=image_size))


def tiny(seed: int = 0, image_size: int = 64) -> TrackAnything:
    return deepcopy(built(seed, image_size))


def official_state(model: TrackAnything) -> dict[str, Tensor]:
    return {official_name(name): tensor for name, tensor in model.state_dict().items()}


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def as_sam2_trainer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What SAM 2's trainer writes: numbers of NumPy beside the weights."""
    losses = {"Losses/train_all_loss": np.float64(0.5), "best": np.float32(1), "rows": np.int64(3), "good": np.bool_(True)}
    return {"model": dict(state), "optimizer": {"state": {}}, "epoch": 3, "loss": losses, "time_elapsed": 1.5}


LAYOUTS: dict[str, Callable[[TrackAnything], object]] = {
    "official": lambda m: {"model": official_state(m)},
    "DataParallel": lambda m: {"model": prefixed(official_state(m), "module.")},
    "compiled": lambda m: {"model": prefixed(official_state(m), "_orig_mod.")},
    "both": lambda m: {"model": prefixed(official_state(m), "module._orig_mod.")},
    "a compiled part": lambda m: {
        "model": {name.replace("image_encoder.", "image_encoder._orig_mod.", 1): t for name, t in official_state(m).items()}
    },
    "SAM 2's trainer": lambda m: as_sam2_trainer(official_state(m)),
    "bare": official_state,
    "state_dict of official names": lambda m: {"state_dict": official_state(m)},
    "bare, our names": lambda m: m.state_dict(),
    "our names": lambda m: {"model": m.state_dict()},
    "Lightning, compiled": lambda m: {"state_dict": prefixed(m.state_dict(), "student._orig_mod.") | {"w": torch.ones(1)}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_that_people_have_are_read(tmp_path: Path, layout: str) -> None:
    model, other = tiny(0), tiny(1)
    torch.save(LAYOUTS[layout](model), tmp_path / "a.pt")
    load_into(other, tmp_path / "a.pt")
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_official_names_in_safetensors_are_read_whatever_the_file_is_called(tmp_path: Path, suffix: str) -> None:
    model, other = tiny(0), tiny(1)
    save_file(official_state(model), tmp_path / f"a{suffix}")
    load_into(other, tmp_path / f"a{suffix}")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["edgetam", "sam2.1_hiera_tiny"])
def test_hugging_faces_names_are_the_official_ones(name: str) -> None:
    """All names and shapes of the video models of transformers 5, against those of the released files."""
    fixtures = Path(__file__).parent / "parity" / "fixtures"
    theirs, official = (
        json.loads(gzip.decompress((fixtures / file).read_bytes()))[name]
        for file in ("huggingface_names.json.gz", "state_dicts.json.gz")
    )
    with torch.device("meta"):
        found = from_huggingface({key: torch.empty(shape) for key, shape in theirs.items()})
    # switched off in the released EdgeTAM; the class makes them all the same
    extra = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"} if name == "edgetam" else set()
    assert {key: list(tensor.shape) for key, tensor in found.items() if key not in extra} == official


def test_hugging_faces_file_of_edgetam_is_read(tmp_path: Path) -> None:
    model, other = tiny(0), tiny(1)
    packed = (Path(__file__).parent / "parity" / "fixtures" / "huggingface_names.json.gz").read_bytes()
    names = json.loads(gzip.decompress(packed))["edgetam"]
    official = official_state(model)
    known = [name for name in names if re.sub(r"to_[kv]\.", "to_kv.", official_of_huggingface(name)) in official]
    points = "prompt_encoder.point_embed.weight"
    save_file(
        {n: t.contiguous().clone() for n, t in to_huggingface(official, [*known, points]).items()},
        tmp_path / "m.safetensors",
    )
    load_into(other, tmp_path / "m.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert contents(tmp_path / "m.safetensors").layout == "huggingface"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 155906050\n", "pointer of Git LFS"),
        (b"not a checkpoint at all", "no checkpoint at all"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":', "may be truncated"),
    ],
    ids=["empty", "web page", "LFS", "text", "cut safetensors"],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_checkpoints_are_named_as_what_they_are(
    tmp_path: Path, content: bytes, message: str, suffix: str
) -> None:
    path = tmp_path / f"edgetam{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"edgetam{suffix} .*{message}"):
        load_into(tiny(), path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was_here"),)

    torch.save({"model": {}, "loss": Runs()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"more than plain tensors .*could run code"):
        load_into(tiny(), tmp_path / "a.pt")
    assert not (tmp_path / "was_here").exists()


def test_tensors_of_something_else_are_not_listed_as_missing_parts(tmp_path: Path) -> None:
    torch.save({"model": {"backbone.layer1.weight": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no model that is known \(backbone.layer1.weight\)"):
        load_into(tiny(), tmp_path / "a.pt")


def test_a_mismatch_does_not_advise_the_model_that_was_used(tmp_path: Path) -> None:
    with torch.device("meta"):
        used, other = build_model(config("edgetam")), build_model(config("edgetam", memory_blocks=4))
    zeros = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in official_state(other).items()}
    torch.save({"model": zeros}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="Both are like edgetam, with other settings") as caught:
        load_into(used, tmp_path / "a.pt")
    assert "model=edgetam" not in str(caught.value)


# ---------------------------------------------------------------------- the card


def carded(path: Path, image_size: int = 64) -> ModelConfig:
    cfg = replace(TINY, image_size=image_size)
    save_official(
        built(0, image_size), path, {"model": cfg, "training": {"stage": "video"}, "data": {"toy": Path("runs/toy")}}
    )
    return cfg


def test_a_card_does_not_disturb_readers_of_official_files(tmp_path: Path) -> None:
    carded(tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", map_location="cpu", weights_only=True)["model"]  # as SAM 2 and EdgeTAM do
    assert all(torch.equal(read[name], tensor) for name, tensor in official_state(tiny()).items())
    card = contents(tmp_path / "a.pt").card
    assert card is not None
    assert card["model"]["trunk_args"] == {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]}  # plain values
    assert (card["training"], card["data"]) == ({"stage": "video"}, {"toy": "runs/toy"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"compressor": replace(TINY.compressor, self_attention_2d="paper")},
            "model.compressor.self_attention_2d is paper, recorded is released",
        ),
        ({"image_size": 128}, "model.image_size is 128, recorded is 64"),
    ],
    ids=["other self-attention", "other image size"],
)
def test_a_variant_of_equal_shapes_is_not_taken_for_the_recorded_model(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    carded(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_model(replace(TINY, **change), tmp_path / "a.pt")


def test_what_matters_in_training_alone_may_differ_from_the_card(tmp_path: Path) -> None:
    carded(tmp_path / "a.pt")
    load_model(replace(TINY, dropout=0.5, name="mine", cross_attention_bias_init=1.0), tmp_path / "a.pt")


def test_weights_may_be_used_at_another_size_on_purpose(tmp_path: Path) -> None:
    cfg = carded(tmp_path / "a.pt")
    assert load_model(cfg, tmp_path / "a.pt", image_size=128).image_size == 128
    larger = tiny(1, image_size=128)
    load_parts(larger, tmp_path / "a.pt", "equal_shapes")
    assert torch.equal(larger.memory_attention.age, load_model(cfg, tmp_path / "a.pt").memory_attention.age)


def test_the_recorded_model_is_found_without_reading_the_weights(tmp_path: Path) -> None:
    cfg = carded(tmp_path / "a.pt", image_size=128)
    found = recorded_config(tmp_path / "a.pt")
    assert found is not None
    assert replace(found, trunk_args=cfg.trunk_args) == cfg
    save_official(tiny(), tmp_path / "plain.pt")
    assert recorded_config(tmp_path / "plain.pt") is None


def test_a_card_of_a_newer_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    save_official(tiny(), tmp_path / "a.pt", {"model": {"name": "toy", "warp_drive": 9}})
    with pytest.raises(ValueError, match=r"does not know \(Key 'warp_drive'"):
        load_model(TINY, tmp_path / "a.pt")


def test_images_take_along_what_stage_1_trains(tmp_path: Path) -> None:
    """Without a memory its own embedding is added to F16, so stage 1 trains that too; the rest of memory starts anew."""
    trained, fresh = tiny(0), tiny(1)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    save_official(trained, tmp_path / "a.pt")
    load_parts(fresh, tmp_path / "a.pt", "images")
    taken = {name for name, tensor in fresh.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "memory_attention.no_memory" in taken
    assert not [n for n in taken if n.startswith(("memory_encoder", "compressor", "memory_attention.blocks"))]


def test_weights_with_a_changed_bit_or_numbers_that_are_not_finite_are_not_used(tmp_path: Path) -> None:
    model, path = toy(), tmp_path / "weights.pt"
    save_official(model, path)
    data = bytearray(path.read_bytes())
    tensor = max(model.state_dict().values(), key=torch.numel)
    data[data.index(tensor.numpy().tobytes()) + 5] ^= 64
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.pt is truncated or damaged: .* differs from its checksum"):
        load_into(toy(), path)
    with torch.no_grad():
        tensor.view(-1)[7] = float("nan")
    save_official(model, path)
    with pytest.raises(ValueError, match=r"weights\.pt holds numbers that are not finite in 1 tensors: "):
        load_into(toy(), path)
