"""Files of tensors as people have them, and files that are none."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import official_state, tiny
from torch import Tensor
from zoo import toy

from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import contents, load_into, official_of_huggingface, save_official, to_huggingface


def test_training_checkpoints_of_ours_are_read(tmp_path: Path) -> None:
    model, other = toy(seed=0), toy(seed=1)
    state = {f"student.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {"state_dict": state | {"objective.scale": torch.ones(1)}, "epoch": 3, "notes": {"a": [1, "b"]}}, tmp_path / "x.ckpt"
    )
    load_into(other, tmp_path / "x.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


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


def test_hugging_faces_file_of_edgetam_is_read(tmp_path: Path) -> None:
    model, other = tiny(0), tiny(1)
    packed = (Path(__file__).parents[1] / "parity" / "fixtures" / "huggingface_names.json.gz").read_bytes()
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
