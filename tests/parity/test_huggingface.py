"""Hugging Face's `EdgeTamVideoModel` reads the files we save, and tracks with them as we do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import fill, waves, zoo

from edgetam_pl.build import build_model
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.weights import official_name, save_official

SIZE, FRAMES, CLICK = 256, 6, (90.0, 70.0)


def test_a_file_of_ours_is_read_and_tracks_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import peers

    missing = peers.available("huggingface")
    if missing is not None:
        pytest.skip(f"{missing} (pip install transformers)")
    model = build_model(zoo("edgetam", image_size=SIZE)).eval()
    model.load_state_dict({ours: fill(official_name(ours), tensor) for ours, tensor in model.state_dict().items()})
    save_official(model, tmp_path / "edgetam.pt")
    frames = waves(SIZE, FRAMES)
    images = model.normalise(torch.from_numpy(frames).permute(0, 3, 1, 2))
    with torch.inference_mode():
        theirs = torch.stack(list(peers.track_with_huggingface(tmp_path / "edgetam.pt", images, CLICK, device="cpu")))

    # Hugging Face always makes the memory of a prompted frame from a black and white mask
    options = replace(SessionOptions.released(postprocessing=False), binarize_prompted_memory=True, memory_dtype=None)
    session = Session(model, Stills(frames), options=options)
    session.prompt(1, 0, points=[CLICK])
    ours = torch.stack([out.logits[0] for out in session.propagate()])

    scale = float(theirs.abs().max())
    assert theirs.std() > 0.05 * scale  # a constant would prove nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * scale)
