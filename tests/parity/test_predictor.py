"""A session with the released predictor's habits gives what the published package's video predictor gives.

Random weights, presence forced positive; clicks, a correction, a box and a mask; forwards and backwards.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from reference import fill, waves, zoo
from torch import Tensor

from edgetam_pl.build import build_model
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import official_name, save_official

pytestmark = pytest.mark.slow

SIZE, FRAMES = 256, 5
OURS = {"trunk": "repvit_m1", "image_size": SIZE, "compressor": {"global_latents": 32, "spatial_latents": 64}}
THEIRS = {
    "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
    "image_size": SIZE,
    "memory_attention.layer.cross_attention.q_sizes": [16, 16],
    "memory_attention.layer.cross_attention.k_sizes": [8, 8],
    "spatial_perceiver.num_latents": 32,
    "spatial_perceiver.num_latents_2d": 64,
}
POSTPROCESSING = {
    "binarize_mask_from_pts_for_mem_enc": True,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
}

SAME = 1e-3
"""Of the largest logit. Both store memories in bfloat16, whose steps are 4e-3: what differs by rounding in float32 may fall
to either side of a step."""

Masks = dict[int, Tensor]
"""Logits (H, W) by frame."""


@pytest.fixture(scope="module", params=[False, True], ids=["benchmarks", "postprocessing"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, TrackAnything, SessionOptions]:
    """The package's predictor, our model with the same weights, and the options that should make them equal."""
    pytest.importorskip("sam2", reason="install edgetam-dimos to compare with the published package")
    import sam2
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate
    from sam2.modeling.backbones import timm as package_trunks

    GlobalHydra.instance().clear()  # the package takes it over when imported
    cfg = OmegaConf.load(Path(sam2.__path__[0]) / "edgetam.yaml")
    assert isinstance(cfg, DictConfig)
    for key, value in {**THEIRS, **(POSTPROCESSING if request.param else {})}.items():
        OmegaConf.update(cfg.model, key, value)
    create = package_trunks.create_model
    offline = mock.patch.object(package_trunks, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))
    with offline:
        predictor = instantiate(cfg.model).eval()
    predictor.load_state_dict({key: fill(key, tensor) for key, tensor in predictor.state_dict().items()})
    model = build_model(zoo("edgetam", **OURS)).eval()
    weights = predictor.state_dict()
    model.load_state_dict({key: weights[official_name(key)] for key in model.state_dict()})
    # the package fills holes with a CUDA extension, which is absent here
    return predictor, model, replace(SessionOptions.released(postprocessing=request.param), fill_holes_area=0)


def opened(predictor: Any, model: TrackAnything) -> Any:
    """The package's state for these frames."""
    from sam2 import sam2_video_predictor

    images = model.normalise(torch.from_numpy(waves(SIZE, FRAMES)).permute(0, 3, 1, 2))
    with mock.patch.object(sam2_video_predictor, "load_video_frames", return_value=(images, SIZE, SIZE)):
        return predictor.init_state("frames are given")


def assert_same(ours: Masks, theirs: Masks) -> None:
    assert ours.keys() == theirs.keys()
    for t, logits in theirs.items():
        scale = float(logits.abs().max())
        assert logits.std() > 0.05 * scale  # a constant would prove nothing
        torch.testing.assert_close(ours[t], logits, rtol=0, atol=SAME * scale, msg=lambda text, t=t: f"frame {t}: {text}")


def propagated(predictor: Any, state: Any, **arguments: Any) -> Masks:
    return {t: logits[0, 0].clone() for t, _, logits in predictor.propagate_in_video(state, **arguments)}


def travelled(session: Session, **arguments: Any) -> Masks:
    return {out.frame: out.logits[0].clone() for out in session.propagate(**arguments)}


def test_a_file_of_ours_is_read_by_the_package(pair: tuple[Any, TrackAnything, SessionOptions], tmp_path: Path) -> None:
    from sam2.build_sam import _load_checkpoint

    predictor, model, _ = pair
    save_official(model, tmp_path / "edgetam.pt")
    before = {name: tensor.clone() for name, tensor in predictor.state_dict().items()}
    for tensor in predictor.state_dict().values():
        tensor.zero_()
    _load_checkpoint(predictor, str(tmp_path / "edgetam.pt"))  # refuses missing and unexpected names
    assert all(torch.equal(tensor, before[name]) for name, tensor in predictor.state_dict().items())


def test_clicks_and_a_correction(pair: tuple[Any, TrackAnything, SessionOptions]) -> None:
    predictor, model, options = pair
    state, session = opened(predictor, model), Session(model, Stills(waves(SIZE, FRAMES)), options=options)

    def both(t: int, points: list[tuple[float, float]], labels: list[int]) -> None:
        _, _, logits = predictor.add_new_points_or_box(
            state, t, 1, points=np.array(points, np.float32), labels=np.array(labels)
        )
        answer = session.prompt(1, t, points=points, labels=labels, afresh=True)
        assert_same({t: answer.logits[0]}, {t: logits[0, 0]})

    both(0, [(90.0, 70.0)], [1])
    both(0, [(90.0, 70.0), (180.0, 200.0)], [1, 0])
    assert_same(travelled(session), propagated(predictor, state))
    both(2, [(100.0, 90.0)], [0])
    both(2, [(100.0, 90.0), (30.0, 40.0)], [0, 1])
    assert_same(travelled(session, start=0), propagated(predictor, state, start_frame_idx=0))


def test_a_box_followed_backwards(pair: tuple[Any, TrackAnything, SessionOptions]) -> None:
    predictor, model, options = pair
    state, session = opened(predictor, model), Session(model, Stills(waves(SIZE, FRAMES)), options=options)
    box = (40.0, 60.0, 200.0, 180.0)
    _, _, logits = predictor.add_new_points_or_box(state, 3, 1, box=np.array(box, np.float32))
    assert_same({3: session.prompt(1, 3, box=box).logits[0]}, {3: logits[0, 0]})
    backwards = propagated(predictor, state, start_frame_idx=3, reverse=True)
    assert sorted(backwards) == [0, 1, 2, 3]
    assert_same(travelled(session, backwards=True), backwards)


def test_a_mask_is_remembered_from_low_resolution(pair: tuple[Any, TrackAnything, SessionOptions]) -> None:
    predictor, model, options = pair
    state, session = opened(predictor, model), Session(model, Stills(waves(SIZE, FRAMES)), options=options)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[50:170, 80:190] = True
    mask[100:120, 100:120] = False
    predictor.add_new_mask(state, 1, 1, mask)
    session.prompt(1, 1, mask=mask)
    assert_same(travelled(session), propagated(predictor, state))
