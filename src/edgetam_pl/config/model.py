"""What a model is made of. The defaults are the released EdgeTAM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgetam_pl.config.choices import choice


@dataclass
class CompressorConfig:
    """How a frame's memory becomes tokens (EdgeTAM Sec. 3.2, Tab. 3a, 3b, 3d)."""

    kind: str = choice("perceiver", "pooling", "none")
    """perceiver | pooling | none: what makes a frame's memory smaller (Tab. 3a)."""
    global_latents: int = 256
    """N_g: latents that see the whole frame; 0 turns the branch off (Tab. 3b)."""
    spatial_latents: int = 256
    """N_l: latents that see one window each; 0, or a square whose root divides the memory grid (Tab. 3b)."""
    depth: int = 2
    """Eq. 5 and 6 are stacked this often (Sec. 4.1)."""
    self_attention: bool = True
    """Self-attention among latents (Tab. 3d)."""
    self_attention_2d: str = choice("released", "paper")
    """released: spatial latents attend to themselves only, as the released weights do; paper: to one another."""
    pool: int = 4
    """Side of the average-pooling window of kind=pooling (Tab. 3a: 4 x 4)."""


@dataclass
class ModelConfig:
    """One TrackAnything. The defaults are the released EdgeTAM."""

    name: str = "edgetam"
    """Name in the zoo; recorded in checkpoints."""
    image_size: int = 1024
    """S, side of the square input in pixels."""
    trunk: str = "repvit_m1"
    """repvit_m1 | sam2_hiera_{tiny,small,base_plus,large} | vit_{tiny,small} (plain ViT of EfficientTAM) | sam3_vit, or
    timm's name of any backbone with maps of strides 4, 8, 16 and 32, e.g. tf_efficientnet_lite0 or repvit_m0_9."""
    trunk_args: dict[str, Any] = field(default_factory=dict)
    """Overrides of the trunk's own sizes, for toy models: e.g. embed_dim and depth of repvit_m1."""
    neck: str = choice("fpn", "single", "pyramid")
    """fpn (SAM 2, EdgeTAM) | single (EfficientTAM: one level, no F4 and F8) | pyramid (SAM 3: all levels of one map)."""
    pixels: str = choice("imagenet", "half")
    """How pixels are normalised: imagenet (its mean and deviation; SAM 2, EdgeTAM) | half (to -1 ... 1; SAM 3)."""
    dim: int = 256
    """C, model width."""
    memory_dim: int = 64
    """D, width of a memory token; C must be a multiple of it."""
    memory_blocks: int = 2
    """Blocks of memory attention (Tab. 3c; SAM 2 has 4)."""
    memory_ffn: int = 2048
    """Hidden width of memory attention's feed-forward."""
    cross_attention: str = choice("full", "landmarks", "landmarks_key")
    """full | landmarks (EfficientTAM _1: ln 4 on the logits) | landmarks_key (EfficientTAM _2: ln 4 on the pooled keys)."""
    compressor: CompressorConfig = field(default_factory=CompressorConfig)
    """How a frame's memory becomes tokens."""
    pointer_age: bool = False
    """SAM 2.1: signed sine of the pointer's age. Released EdgeTAM: zeros."""
    occlusion_embedding: bool = False
    """SAM 2.1: memories of absent objects get an embedding of their own (no_obj_embed_spatial)."""
    decoder_heads: int = 8
    """Heads of the mask decoder's attention."""
    decoder_mlp: int = 2048
    """Hidden width of the mask decoder's transformer MLP."""
    dropout: float = 0.1
    """In memory attention, training only (SAM 2 release)."""
    cross_attention_bias_init: float = 0.0
    """Initial bias of the cross-attention's queries and keys. With the rotation it makes every place look first at the
    same place in memory. 0 is PyTorch's own start, as in every release; a toy model with minutes to learn uses 3."""
    drop_path: float = 0.0
    """Stochastic depth of the trunk, training only (Table 5: none for EdgeTAM)."""
