"""Faster ways to run the same model: the same answers, and no new graph for every frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from zoo import TINY

from edgetam_pl.build import build_model
from edgetam_pl.config import CompressorConfig, ModelConfig
from edgetam_pl.inference.optimised import FastTracker, padded
from edgetam_pl.interactive.options import SessionOptions
from edgetam_pl.interactive.session import Session
from edgetam_pl.io.video import Stills
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.step import VideoModel

SAM2_TINY = replace(TINY, pointer_age=True, occlusion_embedding=True, compressor=CompressorConfig(kind="none"))


def a_model(cfg: ModelConfig) -> TrackAnything:
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.mask_decoder.named_parameters():
            if name.endswith("presence_head.layers.2.bias"):
                parameter.fill_(5.0)  # present, or every mask would be empty and any two models would agree
    return model


def tracked(tracker: VideoModel, *, count: int = 20, objects: int = 1, **options: object) -> torch.Tensor:
    frames = np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
    session = Session(tracker, Stills(frames), options=replace(SessionOptions(), **options))  # type: ignore[arg-type]
    for number in range(1, objects + 1):
        session.prompt(number, 0, points=[(10 * number, 20)])
    return torch.stack([out.logits for out in session.propagate()])


@pytest.mark.parametrize("cfg", [TINY, SAM2_TINY], ids=["edgetam", "sam2"])
def test_a_fast_tracker_gives_the_models_answers(cfg: ModelConfig) -> None:
    model = a_model(cfg)
    expected = tracked(model)
    assert expected.std() > 0
    assert (expected > -100).all()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = tracked(FastTracker(model), channels_last=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_blend_is_compiled_once_while_the_bank_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def counted(module: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(len(module.graph.nodes))
        return module

    compile_with_inductor = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **given: compile_with_inductor(function, backend=counted, **given)
    )
    torch._dynamo.reset()
    model = a_model(TINY)
    fast = FastTracker(model, compiled="attention")
    found = tracked(fast, count=24)
    assert len(graphs) == 1
    expected = tracked(model, count=24)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("cfg", [TINY, SAM2_TINY], ids=["edgetam", "sam2"])
def test_a_padded_bank_equals_the_bank(cfg: ModelConfig) -> None:
    model = a_model(cfg)
    sizes: list[int] = []

    class Padded(FastTracker):
        def attend(self, f16, recall):  # type: ignore[no-untyped-def]
            if not recall.frames:
                return self.model.attend(f16, recall)
            keys = self.model.memory_attention.gather(recall)
            keys, bias = padded(keys, tokens=recall.frames[0][1].tokens.shape[1], capacity=(7, 16))
            sizes.append(keys.tokens.shape[1])
            return self.model.memory_attention.blend(f16, keys, bias)

    expected = tracked(model)
    found = tracked(Padded(model, fused=False, channels_last=False))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert len(set(sizes)) == 1


def test_objects_in_one_batch_agree_with_objects_alone() -> None:
    model = a_model(TINY)
    alone = tracked(model, objects=3)
    together = tracked(model, objects=3, batch_objects=True)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_bfloat16_follows_the_same_object() -> None:
    model = a_model(TINY)
    exact = tracked(model, count=6)
    rough = tracked(model, count=6, autocast=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_illegal_choices_are_refused() -> None:
    model = a_model(TINY)
    with pytest.raises(ValueError, match="none, attention, all"):
        FastTracker(model, compiled="everything")
    with pytest.raises(ValueError, match="CUDA graphs need a model on a CUDA device"):
        FastTracker(model, cuda_graphs=True)
