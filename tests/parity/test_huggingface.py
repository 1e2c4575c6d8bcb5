"""Hugging Face's `EdgeTamVideoModel` and `Sam2VideoModel` read the files we save, and track with them as we do."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from reference import fill, waves, zoo
from torch import Tensor

from edgetam_pl.build import build_model
from edgetam_pl.commands.main import main
from edgetam_pl.config import ModelConfig
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import load_into, official_name, save_official

SIZE, FRAMES, CLICK = 256, 6, (90.0, 70.0)


SMALL_HIERA = {
    "image_size": 128, "memory_ffn": 64, "decoder_mlp": 64, "memory_blocks": 2,
    "trunk_args": {
        "embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3], "window_spec": [8, 4, 4, 2],
        "global_pos_size": [4, 4],
    },
}  # fmt: skip


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = import_module("peers")
    missing = module.available("huggingface")
    if missing is not None:
        pytest.skip(f"{missing} (pip install transformers)")
    return module


def with_weights(cfg: ModelConfig) -> TrackAnything:
    model = build_model(cfg).eval()
    model.load_state_dict({ours: fill(official_name(ours), tensor) for ours, tensor in model.state_dict().items()})
    return model


def assert_tracks_alike(
    model: TrackAnything,
    frames: np.ndarray,
    click: tuple[float, float],
    theirs: Tensor,
    *,
    memory: torch.dtype | None = None,
) -> None:
    """`memory`: in which type memories are kept."""
    # Hugging Face always makes the memory of a prompted frame from a black and white mask
    options = replace(SessionOptions.released(postprocessing=False), binarize_prompted_memory=True, memory_dtype=memory)
    session = Session(model, Stills(frames), options=options)
    session.prompt(1, 0, points=[click])
    ours = torch.stack([out.logits[0] for out in session.propagate()])
    scale = float(theirs.abs().max())
    assert theirs.std() > 0.05 * scale  # a constant would prove nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * scale)


def test_a_file_of_ours_is_read_and_tracks_alike(tmp_path: Path, peers: ModuleType) -> None:
    model = with_weights(zoo("edgetam", image_size=SIZE))
    save_official(model, tmp_path / "edgetam.pt")
    frames = waves(SIZE, FRAMES)
    images = model.normalise(torch.from_numpy(frames).permute(0, 3, 1, 2))
    with torch.inference_mode():
        theirs = torch.stack(list(peers.track_with_huggingface(tmp_path / "edgetam.pt", images, CLICK, device="cpu")))
    assert_tracks_alike(model, frames, CLICK, theirs)


@pytest.mark.parametrize("name", ["sam2.1_hiera_tiny", "sam2_hiera_tiny"])
def test_a_small_sam2_goes_there_and_back_and_tracks_alike(tmp_path: Path, peers: ModuleType, name: str) -> None:
    """Random weights; no name is missing, unknown or of another shape on either side."""
    import transformers

    cfg = zoo(name, **SMALL_HIERA)
    model = with_weights(cfg)
    save_official(model, tmp_path / "sam2.pt", {"model": asdict(cfg)})
    words = ["weights", "convert", str(tmp_path / "sam2.pt"), str(tmp_path / "folder"), "--to", "transformers"]
    assert main(words) == 0
    theirs, said = transformers.Sam2VideoModel.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    frames, click = waves(cfg.image_size, FRAMES), (45.0, 35.0)
    images = model.normalise(torch.from_numpy(frames).permute(0, 3, 1, 2))
    with torch.inference_mode():
        answers = torch.stack(list(peers.track_with_transformers(theirs.eval(), images, click)))
    # its SAM 2 keeps memories in bfloat16, as the release does; its EdgeTAM does not
    assert_tracks_alike(model, frames, click, answers, memory=torch.bfloat16)

    back = load_into(build_model(cfg), tmp_path / "folder" / "model.safetensors")
    found = back.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
