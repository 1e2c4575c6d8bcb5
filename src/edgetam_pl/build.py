"""From configuration to model: the only place that knows both. `validate` refuses what cannot be built, and says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from edgetam_pl.config import CompressorConfig, ModelConfig
from edgetam_pl.config.choices import check_choices, did_you_mean
from edgetam_pl.model.compressor import Compressor, Dense, Perceiver2D, Pooling
from edgetam_pl.model.image_encoder import FPN, ImageEncoder, SingleLevel
from edgetam_pl.model.mask_decoder import MaskDecoder
from edgetam_pl.model.memory_attention import MemoryAttention
from edgetam_pl.model.memory_encoder import MemoryEncoder
from edgetam_pl.model.prompt_encoder import PromptEncoder
from edgetam_pl.model.sam3 import PATCH, Pyramid
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.model.trunks import REPVIT, SAM3, TRUNKS, VIT, build_trunk, is_trunk
from edgetam_pl.weights import load_into

RANDOM = "random"
"""Instead of a checkpoint: random weights, to try an architecture."""


def validate(cfg: ModelConfig) -> None:
    """Refuse a configuration that describes no model.

    Raises:
        ValueError: naming what was given, what would be legal, and the key to change.
    """
    check_choices(cfg)
    if not is_trunk(cfg.trunk):
        raise ValueError(
            f"trunk is {cfg.trunk}; use one of {_listed(TRUNKS)}, or timm's name of a backbone (timm.list_models())."
            f"{did_you_mean(cfg.trunk, TRUNKS)}"
        )
    for name, value in (("dim", cfg.dim), ("memory_dim", cfg.memory_dim), ("memory_blocks", cfg.memory_blocks),
                        ("memory_ffn", cfg.memory_ffn), ("decoder_heads", cfg.decoder_heads),
                        ("decoder_mlp", cfg.decoder_mlp), ("image_size", cfg.image_size)):  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    for name, share in (("dropout", cfg.dropout), ("drop_path", cfg.drop_path)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} is {share}; it is a share, at least 0 and below 1.")
    _validate_widths(cfg)
    _validate_encoder(cfg)
    _validate_compressor(cfg.compressor, grid=cfg.image_size // stride_of(cfg))
    if cfg.cross_attention != "full" and (cfg.compressor.kind != "none" or cfg.image_size % 32):
        raise ValueError(
            f"cross_attention={cfg.cross_attention} averages 2 x 2 keys of uncompressed memories; it needs "
            "compressor.kind=none and an image_size that is a multiple of 32. Otherwise use cross_attention=full."
        )


def build_model(cfg: ModelConfig) -> TrackAnything:
    """A TrackAnything with random weights; nothing is downloaded.

    Raises:
        ValueError: the configuration describes no model; see `validate`.
    """
    validate(cfg)
    grid = (cfg.image_size // stride_of(cfg), cfg.image_size // stride_of(cfg))
    single = cfg.neck == "single"
    args = {"image_size": cfg.image_size, **cfg.trunk_args} if cfg.trunk == SAM3 else cfg.trunk_args
    trunk = build_trunk(cfg.trunk, single=single, drop_path=cfg.drop_path, args=args)
    compressor = COMPRESSORS[cfg.compressor.kind](cfg.compressor, cfg.memory_dim, grid)
    return TrackAnything(
        image_size=cfg.image_size,
        pixels=cfg.pixels,
        image_encoder=ImageEncoder(trunk, NECKS[cfg.neck](trunk.channels, cfg.dim)),
        memory_attention=MemoryAttention(
            cfg.dim,
            cfg.memory_dim,
            grid=grid,
            key_grid=compressor.grid,
            non_spatial=compressor.non_spatial,
            num_blocks=cfg.memory_blocks,
            ffn=cfg.memory_ffn,
            cross_attention=cfg.cross_attention,
            pointer_age=cfg.pointer_age,
            dropout=cfg.dropout,
            cross_attention_bias_init=cfg.cross_attention_bias_init,
        ),
        prompt_encoder=PromptEncoder(cfg.dim, image_size=cfg.image_size, grid=grid),
        mask_decoder=MaskDecoder(cfg.dim, heads=cfg.decoder_heads, mlp=cfg.decoder_mlp),
        memory_encoder=MemoryEncoder(cfg.dim, cfg.memory_dim, occlusion=cfg.occlusion_embedding),
        compressor=compressor,
    )


def load_model(cfg: ModelConfig, weights: str | Path | None, *, seed: int = 0, image_size: int = 0) -> TrackAnything:
    """A model with its weights, on the CPU, in evaluation mode: the one loader of every command.

    Args:
        weights: a checkpoint of any layout that `weights` knows, or `random`.
        seed: of random weights. The same seed gives the same numbers in every command, and PyTorch's own generator
            stays where it was.
        image_size: build the model at another size than the weights were made for; 0: at that of `cfg`.

    Raises:
        ValueError: no weights, no such file, a file of another model or of other settings than it records, or a
            configuration that describes no model.
    """
    if not weights:
        raise ValueError(
            "weights is empty; name a checkpoint: edgetam, the name of the official edgetam.pt (downloaded "
            "once), or a file of your own training; or `random`, to try the architecture."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(replace(cfg, image_size=image_size or cfg.image_size))
    return model.eval() if str(weights) == RANDOM else load_into(model, weights, cfg=cfg).eval()


NECKS: dict[str, Callable[[list[int], int], FPN | SingleLevel | Pyramid]] = {
    "fpn": FPN,
    "single": lambda channels, dim: SingleLevel(channels[0], dim),
    "pyramid": lambda channels, dim: Pyramid(channels[0], dim),
}
"""By `neck`: of the trunk's channels and the model's width."""

COMPRESSORS: dict[str, Callable[[CompressorConfig, int, tuple[int, int]], Compressor]] = {
    "none": lambda cfg, dim, grid: Dense(dim, grid=grid),
    "pooling": lambda cfg, dim, grid: Pooling(dim, memory_grid=grid, pool=cfg.pool),
    "perceiver": lambda cfg, dim, grid: Perceiver2D(
        dim,
        memory_grid=grid,
        num_global=cfg.global_latents,
        num_spatial=cfg.spatial_latents,
        depth=cfg.depth,
        self_attention=cfg.self_attention,
        across=cfg.self_attention_2d == "paper",
    ),
}
"""By `compressor.kind`: of a configuration, the width of the memory and its grid (h, w)."""


def _validate_widths(cfg: ModelConfig) -> None:
    if cfg.dim % 8:
        raise ValueError(f"dim is {cfg.dim}; F4 has an eighth of it, so it must be a multiple of 8.")
    if cfg.dim % cfg.memory_dim or cfg.memory_dim % 4:
        legal = [d for d in range(4, cfg.dim + 1, 4) if cfg.dim % d == 0]
        raise ValueError(
            f"memory_dim is {cfg.memory_dim}; a pointer of dim={cfg.dim} is cut into tokens of that width, and positions "
            f"need a multiple of 4. Use one of {_listed(legal)}."
        )
    if (cfg.dim // 2) % cfg.decoder_heads:
        legal = [heads for heads in range(1, cfg.dim // 2 + 1) if (cfg.dim // 2) % heads == 0]
        raise ValueError(f"decoder_heads is {cfg.decoder_heads}; it must divide dim / 2 = {cfg.dim // 2}: {_listed(legal)}.")


def stride_of(cfg: ModelConfig) -> int:
    """Pixels of the input to a token of F16: 16, but for SAM 3, whose patches have 14."""
    return int(cfg.trunk_args.get("patch", PATCH)) if cfg.trunk == SAM3 else 16


def _validate_encoder(cfg: ModelConfig) -> None:
    if (cfg.neck == "pyramid") != (cfg.trunk == SAM3):
        raise ValueError(f"trunk={cfg.trunk} with neck={cfg.neck}: {SAM3} and pyramid, SAM 3's, only go together.")
    if cfg.neck == "single" and cfg.trunk not in VIT:
        raise ValueError(f"neck=single takes one map, {cfg.trunk} makes four; use neck=fpn, or one of {_listed(VIT)}.")
    if cfg.drop_path and cfg.trunk in REPVIT:
        raise ValueError(f"drop_path is {cfg.drop_path}, but {cfg.trunk} has no stochastic depth; set drop_path=0.")
    step = 16 if cfg.neck == "single" else stride_of(cfg) if cfg.trunk == SAM3 else 32
    if cfg.image_size % step:
        low = max(cfg.image_size // step, 1) * step
        raise ValueError(
            f"image_size is {cfg.image_size}; {cfg.trunk} under neck={cfg.neck} needs a multiple of {step}, e.g. {low} or "
            f"{low + step}."
        )


def _validate_compressor(cfg: CompressorConfig, *, grid: int) -> None:
    divisors = [n for n in range(1, grid + 1) if grid % n == 0]
    if cfg.kind == "pooling" and cfg.pool not in divisors:
        raise ValueError(
            f"compressor.pool is {cfg.pool}, which does not divide the {grid} x {grid} memory (image_size / 16); use one of "
            f"{_listed(divisors)}."
        )
    if cfg.kind != "perceiver":
        return
    if cfg.global_latents < 0 or cfg.depth < 1:
        raise ValueError(
            f"compressor.global_latents is {cfg.global_latents} and compressor.depth is {cfg.depth}; at least 0 and 1 are "
            "needed."
        )
    squares = [n * n for n in divisors]
    if cfg.spatial_latents != 0 and cfg.spatial_latents not in squares:
        root = math.isqrt(max(cfg.spatial_latents, 0))
        square = root**2 == cfg.spatial_latents
        cure = f" Or keep it and give an image_size that is a multiple of {math.lcm(32, 16 * root)}." if square else ""
        raise ValueError(
            f"compressor.spatial_latents is {cfg.spatial_latents}; it must be 0 or a square whose root divides the {grid} x "
            f"{grid} memory (image_size / 16): {_listed(squares)}.{cure}"
        )
    if cfg.global_latents + cfg.spatial_latents == 0:
        raise ValueError("Both kinds of latents are 0; keep one of them, or use compressor.kind=pooling or none.")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
