"""Configurations and models that several unit tests build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig, ModelConfig
from edgetam_pl.model.track_anything import TrackAnything

MODELS = Path(__file__).resolve().parents[2] / "configs" / "model"
NAMES = sorted(path.stem for path in MODELS.glob("*.yaml"))

TINY = ModelConfig(
    image_size=64,
    trunk_args={"embed_dim": (8, 16, 32, 64), "depth": (1, 1, 1, 1)},
    dim=32,
    memory_dim=16,
    memory_ffn=32,
    decoder_heads=2,
    decoder_mlp=32,
    compressor=CompressorConfig(global_latents=4, spatial_latents=4),
)
"""EdgeTAM's parts at the smallest size that makes sense."""


def config(name: str = "toy", *, trunk_args: dict[str, Any] | None = None, **overrides: Any) -> ModelConfig:
    """The checked configuration of a zoo entry, with some keys changed and the trunk's sizes replaced."""
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(MODELS / f"{name}.yaml"), overrides)
    cfg = OmegaConf.to_object(merged)
    assert isinstance(cfg, ModelConfig)
    return cfg if trunk_args is None else replace(cfg, trunk_args=trunk_args)


def lively(model: nn.Module, seed: int = 0) -> None:
    """Fill every tensor so that nothing is inert: no zero gains, no tiny scales, BatchNorm statistics that matter."""
    draw = torch.Generator().manual_seed(seed)

    def filled(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like
        z = torch.randn(like.shape, generator=draw)
        if name.endswith("running_var"):
            return 1 + 0.5 * z.abs()
        if name.endswith(".bn.weight"):
            return 0.3 + 0.1 * z  # features of a size that leaves memory something to say
        if like.ndim >= 2:
            return z / max(like[0].numel(), 1) ** 0.5
        return (1.0 if name.endswith(("weight", "gamma")) else 0.0) + 0.2 * z

    model.load_state_dict({name: filled(name, tensor) for name, tensor in model.state_dict().items()})


def toy(seed: int = 0, **overrides: Any) -> TrackAnything:
    """The toy model in eval mode, with lively weights, that calls everything present."""
    torch.manual_seed(seed)
    model = build_model(config(**overrides)).eval()
    lively(model, seed)
    with torch.no_grad():
        model.mask_decoder.presence_head.layers[-1].bias.fill_(20.0)
    return model
