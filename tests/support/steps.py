"""A small student, its teacher, and a clip: one training step that several unit tests take."""

from __future__ import annotations

import torch
from torch import Tensor
from zoo import config

from edgetam_pl.build import build_model
from edgetam_pl.config import PhaseConfig, PromptConfig, StageConfig
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.training.activation_checkpointing import MemoryOptions
from edgetam_pl.training.distillation import Distillation
from edgetam_pl.training.step import StepResult, compute_losses
from edgetam_pl.training.track_batch import Teacher
from edgetam_pl.types import VideoBatch

SIDE, OBJECTS = 64, 5
SMALL = {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]}


def small(seed: int, **overrides: object) -> TrackAnything:
    torch.manual_seed(seed)
    sizes: dict[str, object] = {
        "image_size": SIDE,
        "dim": 32,
        "memory_dim": 16,
        "memory_blocks": 1,
        "memory_ffn": 32,
        "decoder_mlp": 32,
        "dropout": 0.0,
    }
    sizes["compressor"] = {"global_latents": 4, "spatial_latents": 4}
    model = build_model(config("toy", trunk_args=SMALL, **{**sizes, **overrides}))
    torch.nn.init.constant_(model.mask_decoder.presence_head.layers[-1].bias, 5.0)
    return model


def clips(frames: int, *, clips: int = 1) -> VideoBatch:
    made = [toy_clip(3 + clip, frames, SIDE, OBJECTS) for clip in range(clips)]
    images = torch.stack([torch.from_numpy(frames_).permute(0, 3, 1, 2) for frames_, _ in made])
    masks = torch.cat([torch.from_numpy(masks_) for _, masks_ in made], dim=1)
    video_of = torch.arange(clips).repeat_interleave(masks.shape[1] // clips)
    return VideoBatch(images, masks, video_of, tuple(f"clip{i}" for i in range(clips)))


def module_of(
    frames: int, *, memory_options: MemoryOptions | None = None, points: float = 1.0, **stage: object
) -> Distillation:
    prompts = PromptConfig(point_prob=points, corrections=2, max_corrected_frames=1)
    settings = StageConfig(phases=[PhaseConfig(frames=frames, steps=10)], prompts=prompts, **stage)  # type: ignore[arg-type]
    teacher = Teacher(small(1), "toy", "0" * 64)
    return Distillation(small(0), stage=settings, teacher=teacher, memory_options=memory_options).train()


def taken(module: Distillation, batch: VideoBatch) -> StepResult:
    """The step that `training_step` takes."""
    return compute_losses(module.student, module.teachers, batch, module.seeds, module.options)


def gradients(module: Distillation, found: StepResult) -> dict[str, Tensor]:
    found.losses.weighted(module.stage.weights).total.backward()
    return {name: p.grad for name, p in module.student.named_parameters() if p.grad is not None}
