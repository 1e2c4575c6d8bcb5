"""What is said about weights that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import official_state
from zoo import config, toy

from edgetam_pl.build import build_model
from edgetam_pl.weights import load_into, official_name, save_official


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


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_official(toy(memory_ffn=96), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"layers.0.linear1.weight \(96, 64\) instead of \(128, 64\)"):
        load_into(toy(), tmp_path / "a.pt")


def test_a_mismatch_does_not_advise_the_model_that_was_used(tmp_path: Path) -> None:
    with torch.device("meta"):
        used, other = build_model(config("edgetam")), build_model(config("edgetam", memory_blocks=4))
    zeros = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in official_state(other).items()}
    torch.save({"model": zeros}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="Both are like edgetam, with other settings") as caught:
        load_into(used, tmp_path / "a.pt")
    assert "model=edgetam" not in str(caught.value)


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
