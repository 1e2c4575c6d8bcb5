"""With equal weights, clip and clicks a training step gives the losses and gradients of SAM 2's trainer, as
support/sam2_trainer.py has recorded them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from reference import fill, waves, zoo
from sam2_trainer import (
    CLICKS,
    CORRECTED,
    FIXTURE,
    FRAMES,
    OBJECTS,
    PARAMETERS,
    SIZE,
    WEIGHTS,
    summary,
    truth,
    without_chance,
)

from edgetam_pl.build import build_model
from edgetam_pl.config import LossWeights, PhaseConfig, StageConfig
from edgetam_pl.tracking.prompters import Replay
from edgetam_pl.training.step import StepOptions, measure, track_student
from edgetam_pl.types import Prompts, VideoBatch
from edgetam_pl.weights import official_name

RECORDED: dict[str, Any] = json.loads(FIXTURE.read_text())


def prompts_at(t: int) -> tuple[Prompts | None, ...]:
    """What is said on frame t before each answer: clicks add up, corrections improve on the last answer."""
    said: list[Prompts | None] = [None] if t in CORRECTED and t not in (0,) else []
    clicks = CLICKS.get(t, [])
    for count in range(1, len(clicks) + 1):
        points, labels = (torch.cat(parts, dim=1) for parts in zip(*clicks[:count]))
        previous = torch.zeros(OBJECTS, 1, SIZE // 4, SIZE // 4) if said else None  # stands for the answer before
        said.append(Prompts(points=points, labels=labels, previous=previous))
    return tuple(said) or (None,)


@cache
def ours() -> tuple[dict[str, float], dict[str, Any]]:
    """Losses, and summaries of gradients by official name."""
    cfg = zoo("edgetam", image_size=SIZE, compressor={"global_latents": 32, "spatial_latents": 64})
    model = build_model(cfg)
    model.load_state_dict({name: fill(official_name(name), tensor) for name, tensor in model.state_dict().items()})
    without_chance(model)
    frames = torch.from_numpy(waves(SIZE, FRAMES)).permute(0, 3, 1, 2)[None]
    batch = VideoBatch(frames, truth(), torch.zeros(OBJECTS, dtype=torch.int64), ("clip",))
    stage = StageConfig(weights=LossWeights(**WEIGHTS, img=0.0, mem=0.0))
    options = StepOptions(stage, PhaseConfig(frames=FRAMES))
    clip = track_student(model, batch, Replay.of_prompts([prompts_at(t) for t in range(FRAMES)]), options)
    losses = measure(batch, clip, {}, options, OBJECTS)
    losses.weighted(stage.weights).total.backward()
    gradients = {official_name(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses.named("x"), {name: summary(gradients[name]) for name in PARAMETERS}


@pytest.mark.parametrize("term", WEIGHTS)
def test_each_loss_is_that_of_sam2s_trainer(term: str) -> None:
    found = next(float(value) for name, value in ours()[0].items() if name.endswith(f"/{term}"))
    assert found == pytest.approx(RECORDED["losses"][term], rel=1e-6)


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_gradient_is_that_of_sam2s_trainer(name: str) -> None:
    found, wanted = ours()[1][name], RECORDED["gradients"][name]
    assert found["norm"] == pytest.approx(wanted["norm"], rel=1e-4)
    assert found["values"] == pytest.approx(wanted["values"], rel=1e-4, abs=1e-4 * wanted["largest"])
