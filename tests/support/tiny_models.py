"""Models of a few thousand parameters, built once."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from zoo import TINY

from edgetam_pl.build import build_model
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.weights import official_name


@cache
def built(seed: int, image_size: int) -> TrackAnything:
    torch.manual_seed(seed)
    return build_model(replace(TINY, image_size=image_size))


def tiny(seed: int = 0, image_size: int = 64) -> TrackAnything:
    return deepcopy(built(seed, image_size))


def official_state(model: TrackAnything) -> dict[str, Tensor]:
    return {official_name(name): tensor for name, tensor in model.state_dict().items()}
