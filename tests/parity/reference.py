"""Deterministic weights and images shared with the reference run, so that numbers can be compared without a download.

The recorded numbers come from the released code of SAM 2, EdgeTAM and EfficientTAM, with every tensor of the state dict
filled by a rule that depends on its official name and shape alone.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from edgetam_pl.build import build_model
from edgetam_pl.config import ModelConfig
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import official_name

FIXTURES = Path(__file__).parent / "fixtures"
MODELS = Path(__file__).resolve().parents[2] / "configs" / "model"


def zoo(name: str, **overrides: Any) -> ModelConfig:
    """The checked configuration of one entry of the zoo."""
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(MODELS / f"{name}.yaml"), overrides)
    cfg = OmegaConf.to_object(merged)
    assert isinstance(cfg, ModelConfig)
    return cfg


def recorded(name: str) -> dict[str, Any]:
    """Outputs of the reference, by tensor: shape, mean, std, and values at eight flat indices."""
    return json.loads((FIXTURES / f"{name}.json").read_text())


def official_state_dicts() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the official state dicts, by model."""
    return json.loads(gzip.decompress((FIXTURES / "state_dicts.json.gz").read_bytes()))


def filled(name: str) -> TrackAnything:
    """The zoo model with the reference's deterministic weights, in eval mode."""
    torch.manual_seed(0)
    model = build_model(zoo(name)).eval()
    model.load_state_dict({ours: fill(official_name(ours), tensor) for ours, tensor in model.state_dict().items()})
    return model


def image(size: int, t: int) -> Tensor:
    """Image t (1, 3, size, size), already normalised."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    channels = [
        np.sin(2 * math.pi * (y * (k + 1) / 64 + x / (48 + 8 * t))) + 0.3 * np.cos(2 * math.pi * x * y / (size * (5 + k)))
        for k in range(3)
    ]
    return torch.from_numpy(np.stack(channels).astype(np.float32))[None]


def waves(size: int, count: int) -> np.ndarray:
    """Frames (count, size, size, 3) uint8 of slowly turning waves, of the network's own size so that nobody resizes."""
    y, x = np.mgrid[0:size, 0:size]
    planes = [127 + 120 * np.sin(y / (9 + k) + x / (13 + 2 * t)) for t in range(count) for k in range(3)]
    return np.stack(planes).reshape(count, 3, size, size).transpose(0, 2, 3, 1).astype(np.uint8)


def assert_matches(found: Tensor, expected: dict[str, Any], *, name: str, rtol: float = 1e-4) -> None:
    """Shape, moments and sampled values agree; `rtol` is relative to the tensor's own size.

    The recorded layout may have another order of the same axes; pass the tensor in that order.
    """
    assert list(found.shape) == expected["shape"], name
    flat = found.reshape(-1).double()
    scale = math.sqrt(expected["mean"] ** 2 + (0.0 if math.isnan(expected["std"]) else expected["std"]) ** 2)
    assert abs(float(flat.mean()) - expected["mean"]) <= rtol * scale, f"{name}: another mean"
    if flat.numel() > 1:
        assert abs(float(flat.std()) - expected["std"]) <= rtol * scale, f"{name}: another spread"
    values = flat[torch.tensor(expected["idx"])]
    wanted = torch.tensor(expected["val"], dtype=torch.float64)
    worst = float((values - wanted).abs().max())
    assert worst <= rtol * max(scale, float(wanted.abs().max())), f"{name}: off by {worst} at a scale of {scale}"


def fill(name: str, like: Tensor) -> Tensor:
    """The value of one entry of the state dict; the first rule that fits decides."""
    z = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(like.shape)))
    if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        value = torch.full(like.shape, 5.0)  # otherwise every object is judged absent, and any two models agree
    elif name.endswith("num_batches_tracked"):
        value = torch.zeros(like.shape)
    elif name.endswith("running_var"):
        value = 1 + 0.1 * z.abs()
    elif name.endswith("running_mean"):
        value = 0.05 * z
    elif name.endswith(".bn.weight"):
        value = 0.3 + 0.03 * z
    elif like.ndim >= 2:
        value = z / math.sqrt(math.prod(like.shape[1:]))
    elif name.endswith(("weight", "gamma")):
        value = 1 + 0.1 * z
    else:
        value = 0.05 * z
    return value.to(like.dtype)
