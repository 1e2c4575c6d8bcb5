"""Our models and the published package give the same logits over a corrected clip, on random weights.

The package `edgetam-dimos` (a packaging of EdgeTAM's code, import name `sam2`) is needed by this file alone.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from reference import fill, image, zoo
from torch import Tensor, nn

from edgetam_pl.build import build_model
from edgetam_pl.model.mask_decoder import most_stable
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.step import PromptFn, step
from edgetam_pl.types import ABSENT_LOGIT, Decoded, Prompts
from edgetam_pl.weights import official_name

SIZE, FRAMES, CORRECTED = 256, 8, 3
CLICKS = torch.tensor([[[90.0, 70.0]], [[180.0, 200.0]], [[20.0, 230.0]]])  # (objects, 1, xy), on frame 0
CORRECTIONS = (
    (torch.tensor([[[100.0, 90.0]], [[150.0, 60.0]], [[9.0, 9.0]]]), torch.tensor([[0], [1], [1]])),
    (
        torch.tensor([[[100.0, 90.0], [30.0, 40.0]], [[150.0, 60.0], [200.0, 220.0]], [[9.0, 9.0], [99.0, 9.0]]]),
        torch.tensor([[0, 1], [1, 0], [1, 0]]),
    ),
)
"""On frame CORRECTED: one click, then two; points accumulate."""

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # zoo name: the package's YAML, its overrides for this size, ours
    "edgetam": (
        "edgetam.yaml",
        {
            "memory_attention.layer.cross_attention.q_sizes": [16, 16],
            "memory_attention.layer.cross_attention.k_sizes": [8, 8],
            "spatial_perceiver.num_latents": 32,
            "spatial_perceiver.num_latents_2d": 64,
        },
        {"compressor": {"global_latents": 32, "spatial_latents": 64}},
    ),
    "sam2.1_hiera_tiny": ("configs/sam2.1/sam2.1_hiera_t.yaml", {}, {}),
}


class Pair:
    """The package's model and ours with equal weights."""

    def __init__(self, name: str) -> None:
        pytest.importorskip("sam2", reason="install edgetam-dimos to compare with the published package")
        import sam2
        from hydra.core.global_hydra import GlobalHydra
        from hydra.utils import instantiate
        from sam2.modeling.backbones import timm as package_trunks

        GlobalHydra.instance().clear()  # the package takes it over when imported
        yaml, theirs, ours = MODELS[name]
        cfg = OmegaConf.load(Path(sam2.__path__[0]) / yaml)
        assert isinstance(cfg, DictConfig)
        for key, value in {"image_size": SIZE, **theirs}.items():
            OmegaConf.update(cfg.model, key, value)
        create, torch_state = package_trunks.create_model, torch.random.get_rng_state()
        offline = mock.patch.object(package_trunks, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))
        with offline:
            self.reference: nn.Module = instantiate(cfg.model).eval()
        torch.random.set_rng_state(torch_state)
        self.reference.load_state_dict({key: fill(key, tensor) for key, tensor in self.reference.state_dict().items()})
        self.model: TrackAnything = build_model(zoo(name, image_size=SIZE, **ours)).eval()
        weights = self.reference.state_dict()
        self.model.load_state_dict({key: weights[official_name(key)] for key in self.model.state_dict()})
        self.images = [image(SIZE, t) for t in range(FRAMES)]

    @torch.inference_mode()
    def reference_run(self, o: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Object o alone, as the package tracks: every answer's masks (1, 1, s, s), pointers (1, C), presence (1, 1)."""
        outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        answers: list[dict[str, Any]] = []
        for t, frame in enumerate(self.images):
            _, features, positions, sizes = self.reference._prepare_backbone_features(self.reference.forward_image(frame))
            context = {
                "frame_idx": t,
                "current_vision_feats": features,
                "current_vision_pos_embeds": positions,
                "feat_sizes": sizes,
                "mask_inputs": None,
                "output_dict": outputs,
                "num_frames": FRAMES,
            }
            first = (
                {"point_coords": CLICKS[o : o + 1], "point_labels": torch.ones(1, 1, dtype=torch.int32)} if t == 0 else None
            )
            answers.append(self.reference.track_step(is_init_cond_frame=t == 0, point_inputs=first, **context))
            if t == CORRECTED:
                for points, labels in CORRECTIONS:
                    said = {"point_coords": points[o : o + 1], "point_labels": labels[o : o + 1].int()}
                    previous = answers[-1]["pred_masks"].clamp(-32, 32)
                    answers.append(
                        self.reference.track_step(
                            is_init_cond_frame=False, point_inputs=said, prev_sam_mask_logits=previous, **context
                        )
                    )
            kept = "cond_frame_outputs" if t in (0, CORRECTED) else "non_cond_frame_outputs"
            outputs[kept][t] = answers[-1]
        return tuple([a[key] for a in answers] for key in ("pred_masks", "obj_ptr", "object_score_logits"))  # type: ignore[return-value]

    @cached_property
    def together(self) -> list[Decoded]:
        """All objects in one batch."""
        return self.our_run(slice(None))

    @torch.inference_mode()
    def our_run(self, objects: slice) -> list[Decoded]:
        """The chosen objects together, sharing image features."""
        bank = MemoryBank(policy=RecallPolicy(past_pointers_only=True, clip_length=FRAMES))
        answers: list[Decoded] = []
        for t, frame in enumerate(self.images):
            output, bank = step(self.model, bank, self.model.encode(frame), t, _person(t, objects))
            answers += output.rounds
        return answers


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def test_a_corrected_clip_of_two_objects_equals_the_published_package(pair: Pair) -> None:
    ours = pair.together
    assert len(ours) == FRAMES + len(CORRECTIONS)
    for o in range(2):
        masks, pointers, presence = pair.reference_run(o)
        for i, answer in enumerate(ours):
            _assert_close(answer.best[o : o + 1], masks[i], name=f"logits of object {o} in answer {i}")
            _assert_close(answer.pointer[o : o + 1], pointers[i], name=f"pointer of object {o} in answer {i}")
            _assert_close(answer.presence[o : o + 1], presence[i], name=f"presence of object {o} in answer {i}")
    _assert_varied([answer.best for answer in ours])


def test_objects_tracked_together_equal_objects_tracked_alone(pair: Pair) -> None:
    for o in range(len(CLICKS)):
        for a, b in zip(pair.together, pair.our_run(slice(o, o + 1)), strict=True):
            _assert_close(a.best[o : o + 1], b.best, name="logits")
            _assert_close(a.pointer[o : o + 1], b.pointer, name="pointer")


def test_absent_objects_are_remembered_as_the_published_package_does(pair: Pair) -> None:
    """No mask, no pointer; SAM 2.1 marks the memory too."""
    bias = pair.model.mask_decoder.presence_head.layers[-1].bias
    theirs = pair.reference.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    with torch.inference_mode():
        _, features, positions, sizes = pair.reference._prepare_backbone_features(
            pair.reference.forward_image(pair.images[0])
        )
        bias.fill_(-5.0)
        theirs.fill_(-5.0)
        try:
            encoded = pair.model.encode(pair.images[0])
            found, _ = step(pair.model, MemoryBank(), encoded, 0, _person(0, slice(0, 1)))
            expected = pair.reference.track_step(
                frame_idx=0, is_init_cond_frame=True, current_vision_feats=features, current_vision_pos_embeds=positions,
                feat_sizes=sizes, mask_inputs=None, num_frames=1, output_dict={},
                point_inputs={"point_coords": CLICKS[:1], "point_labels": torch.ones(1, 1, dtype=torch.int32)},
            )  # fmt: skip
        finally:
            bias.fill_(5.0)
            theirs.fill_(5.0)
        memory = pair.model.memorize(encoded.f16, found.final)
    assert not found.final.visible.any()
    assert (found.final.best == ABSENT_LOGIT).all()
    _assert_close(found.final.pointer, expected["obj_ptr"], name="pointer")
    stored = expected["maskmem_features"]
    _assert_close(memory.tokens, stored if stored.ndim == 3 else stored.flatten(2).transpose(1, 2), name="memory")


def test_unstable_masks_are_replaced_as_in_the_published_package(pair: Pair) -> None:
    decoder = pair.reference.sam_mask_decoder
    decoder.dynamic_multimask_stability_delta, decoder.dynamic_multimask_stability_thresh = 0.05, 0.98
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, 16, 16, generator=draw) * torch.logspace(-2, 3, 6).view(6, 1, 1, 1)
    logits[5, 0] = -9.0  # nothing near the threshold: stable by definition
    iou = torch.rand(6, 4, generator=draw)
    expected = decoder._dynamic_multimask_via_stability(logits, iou)
    found = most_stable(logits, iou)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    replaced = (found[0][:, 0] != logits[:, 0]).flatten(1).any(dim=1)
    assert replaced.any()
    assert not replaced.all()


def _person(t: int, objects: slice) -> PromptFn:
    """Clicks on frame 0, corrects frame CORRECTED twice, is silent elsewhere."""
    rounds = iter(CORRECTIONS if t == CORRECTED else ())

    def ask(answer: Decoded | None) -> Prompts | None:
        if answer is None:
            clicks = CLICKS[objects]
            return Prompts(points=clicks, labels=torch.ones(clicks.shape[:2], dtype=torch.long)) if t == 0 else None
        said = next(rounds, None)
        if said is None:
            return None
        return Prompts(points=said[0][objects], labels=said[1][objects], previous=answer.best.clamp(-32, 32))

    return ask


def _assert_close(ours: Tensor, theirs: Tensor, *, name: str) -> None:
    assert ours.shape == theirs.shape, name
    worst = float((ours - theirs).abs().max() / theirs.abs().max())
    assert worst <= 1e-4, f"{name}: differs by {worst:.1e} of the largest value"


def _assert_varied(masks: list[Tensor]) -> None:
    """Two models that call everything absent agree on everything."""
    for before, after in itertools.pairwise(masks):
        assert float((before - after).abs().mean()) > 1e-3
    for mask in masks:
        assert float(mask.std()) > 1e-2
        assert float((mask[0] - mask[1]).abs().mean()) > 1e-3
        assert math.isfinite(float(mask.sum()))
