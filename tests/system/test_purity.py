"""The step is a function: what goes in stays as it was, and when features are computed makes no difference."""

from __future__ import annotations

import copy

import pytest
import torch

from edgetam_pl.build import build_model
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.prompters import GivenMasks, Replay, Script
from edgetam_pl.tracking.step import Features, rollout, step
from edgetam_pl.types import Prompts

FRAMES = 6


@pytest.fixture(scope="module")
def model() -> TrackAnything:
    torch.manual_seed(0)
    model = build_model(composed(TrainConfig, command="train", overrides=["model=toy"])[0].model).eval()
    with torch.no_grad():  # random weights tend to say "absent", and then every logit is the same
        model.mask_decoder.presence_head.layers[-1].bias.fill_(5.0)  # type: ignore[union-attr,operator]
    return model


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    frames, masks = toy_clip(3, FRAMES, 128, 3)
    return torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(masks)


def lazily(model: TrackAnything, frames: torch.Tensor) -> Features:
    return lambda t: model.encode(model.normalise(frames[t : t + 1]))


@torch.no_grad()
def test_streaming_equals_all_frames_at_once(model: TrackAnything, clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, masks = clip
    together = model.encode(model.normalise(frames))
    prompter = GivenMasks(masks)
    eager = rollout(model, lambda t: together.of(slice(t, t + 1)), prompter, num_frames=FRAMES, bank=MemoryBank())
    lazy = rollout(model, lazily(model, frames), prompter, num_frames=FRAMES, bank=MemoryBank())
    for one, other in zip(eager, lazy, strict=True):
        torch.testing.assert_close(one.final.logits, other.final.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.final.pointer, other.final.pointer, rtol=1e-4, atol=1e-4)
    assert eager[-1].final.logits.std() > 1e-3


@torch.no_grad()
def test_a_step_changes_nothing_it_was_given(model: TrackAnything, clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, masks = clip
    features = lazily(model, frames)
    _, bank = step(model, MemoryBank(), features(0), 0, GivenMasks(masks).at(0))
    held, weights = copy.deepcopy(bank), copy.deepcopy(model.state_dict())
    _, after = step(model, bank, features(1), 1, lambda answer: None)
    assert len(bank.recent) == 0
    assert len(after.recent) == 1
    for (t, before), (u, now) in zip(held.prompted, bank.prompted, strict=True):
        assert t == u
        assert torch.equal(before.tokens, now.tokens)
        assert torch.equal(before.pointer, now.pointer)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


@torch.no_grad()
def test_a_second_model_hears_what_the_first_heard(model: TrackAnything, clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, _ = clip
    click = Prompts(points=torch.tensor([[[40.0, 40.0]]]), labels=torch.ones(1, 1, dtype=torch.long))
    script = Script({0: [click], 3: [click]})
    said = rollout(model, lazily(model, frames), script, num_frames=FRAMES, bank=MemoryBank())
    heard = rollout(model, lazily(model, frames), Replay(said), num_frames=FRAMES, bank=MemoryBank())
    for one, other in zip(said, heard, strict=True):
        assert len(one.rounds) == len(other.rounds)
        assert one.recalled == other.recalled
        for first, second in zip(one.rounds, other.rounds, strict=True):
            assert (first.prompts is None) == (second.prompts is None)
            torch.testing.assert_close(first.logits, second.logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_objects_together_are_objects_alone(model: TrackAnything, clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, masks = clip
    together = rollout(model, lazily(model, frames), GivenMasks(masks), num_frames=FRAMES, bank=MemoryBank())
    for o in range(masks.shape[1]):
        alone = rollout(model, lazily(model, frames), GivenMasks(masks[:, o : o + 1]), num_frames=FRAMES, bank=MemoryBank())
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one.final.best[o : o + 1], other.final.best, rtol=1e-3, atol=1e-3)
