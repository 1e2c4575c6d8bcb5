"""Recomputation: the same values, gradients and statistics for less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig, ModelConfig
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank
from edgetam_pl.tracking.prompters import PromptPlan, SimulatedClicks
from edgetam_pl.tracking.step import rollout
from edgetam_pl.training.activation_checkpointing import CheckpointedTracker, statistics_kept
from edgetam_pl.types import VERBS

SIDE, FRAMES, OBJECTS = 64, 3, 2


@pytest.fixture(scope="module")
def model() -> TrackAnything:
    torch.manual_seed(0)
    made = build_model(
        ModelConfig(
            image_size=SIDE,
            trunk_args={"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]},
            dim=32,
            memory_dim=16,
            memory_ffn=32,
            decoder_heads=2,
            decoder_mlp=32,
            dropout=0.1,
            compressor=CompressorConfig(global_latents=4, spatial_latents=4),
        )
    )
    nn.init.constant_(made.mask_decoder.presence_head.layers[-1].bias, 5.0)
    return made.train()


def _loss(model: TrackAnything, verbs: tuple[str, ...]) -> Tensor:
    """A corrected clip, so that every verb takes part; the same random numbers every time."""
    torch.manual_seed(1)
    noise = torch.Generator().manual_seed(2)
    masks = torch.rand(FRAMES, OBJECTS, SIDE, SIDE, generator=noise) > 0.5
    plan = PromptPlan((0,), by_points=True, boxed=(False,), corrected=(0,), from_truth=((False, False),))
    tracker = CheckpointedTracker(model, verbs)
    features = tracker.encode(torch.randn(FRAMES, 3, SIDE, SIDE, generator=noise))
    outputs = rollout(
        tracker,
        lambda t: features.of(slice(t, t + 1)),
        SimulatedClicks(masks, plan, noise),
        num_frames=FRAMES,
        bank=MemoryBank(),
    )
    return torch.stack([answer.logits.square().mean() + answer.iou.sum() for o in outputs for answer in o.rounds]).sum()


@pytest.mark.parametrize("verbs", [*((verb,) for verb in VERBS), VERBS], ids="-".join)
def test_values_gradients_and_statistics_are_those_of_the_plain_pass(model: TrackAnything, verbs: tuple[str, ...]) -> None:
    plain, lean = copy.deepcopy(model), copy.deepcopy(model)
    expected, found = _loss(plain, ()), _loss(lean, verbs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    expected.backward()
    found.backward()
    for (name, ours), theirs in zip(lean.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, ours), theirs in zip(lean.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_the_statistics_did_move_once(model: TrackAnything) -> None:
    """Guards the test above against statistics that never move."""
    moved = copy.deepcopy(model)
    _loss(moved, VERBS).backward()
    counts = [value for name, value in moved.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(count.item() == 1 for count in counts)


def test_less_is_kept_until_backward(model: TrackAnything) -> None:
    def kept(verbs: tuple[str, ...]) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _loss(copy.deepcopy(model), verbs)
        return sum(sizes.values())

    everything = kept(())
    assert all(kept((verb,)) < everything for verb in VERBS)
    assert kept(VERBS) < everything / 3


def test_kept_statistics_still_normalise_by_the_batch() -> None:
    norm, x = nn.BatchNorm2d(2).train(), torch.randn(4, 2, 3, 3)
    with statistics_kept(norm):
        inside = norm(x)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0
    torch.testing.assert_close(inside, norm(x))
    assert norm.num_batches_tracked.item() == 1


def test_an_unknown_verb_is_refused(model: TrackAnything) -> None:
    with pytest.raises(ValueError, match="nothing called forget"):
        CheckpointedTracker(model, ("forget",))
