"""SAM 3's tracker: the numbers of Transformers' own classes, and the published checkpoints' names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reference import waves
from torch import Tensor, nn
from zoo import config

from edgetam_pl.build import build_model
from edgetam_pl.model.track_anything import TrackAnything
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.step import observe
from edgetam_pl.types import Decoded, ImageFeatures, Prompts
from edgetam_pl.weights import contents, load_into, official_name

transformers = pytest.importorskip("transformers", reason="Transformers has the classes to compare with")

SIDE, FRAMES, CORRECTED = 112, 8, 4
TRUNK = {"dim": 32, "heads": 2, "depth": 3, "hidden": 64, "window": 4, "attend_everywhere": [2], "pretrained": 4}
CLICKS = {1: ((30.0, 40.0), 1), 2: ((80.0, 70.0), 1)}
CORRECTIONS = {1: (((35.0, 44.0), 1), ((90.0, 20.0), 0)), 2: (((70.0, 76.0), 1),)}
"""(x, y) and label of each click; two for one object, so that one mask is asked for, and one for the other."""


SMALL = config("sam3_tracker", trunk_args=TRUNK, image_size=SIDE, memory_blocks=2, memory_ffn=64, decoder_mlp=64)


def their_config() -> Any:
    return transformers.Sam3TrackerVideoConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 2, "image_size": SIDE, "window_size": 4, "global_attn_indexes": [2],
                "pretrain_image_size": 56,
            },
        },
        mask_decoder_config={"mlp_dim": 64},
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=64,
        image_size=SIDE,
    )  # fmt: skip


def lively(model: nn.Module) -> None:
    """Every parameter counts: nothing is left at zero, or at one."""
    draw = torch.Generator().manual_seed(5)
    state = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=draw)
        gain = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight", ".scale")) else 0.0
        wide = tensor.ndim >= 2 and "embed" not in name
        state[name] = noise / tensor[0].numel() ** 0.5 if wide else gain + 0.2 * noise
    # one matrix under two names, as in the published checkpoints
    state["shared_image_embedding.positional_embedding"] = state["prompt_encoder.shared_embedding.positional_embedding"]
    model.load_state_dict(state)


@pytest.fixture(scope="module")
def theirs() -> Any:
    model = transformers.Sam3TrackerVideoModel(their_config()).eval()
    lively(model)
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(4.0)  # present, or nothing would be compared
    return model


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> TrackAnything:
    """Their weights through a file with their names, strictly."""
    path = tmp_path_factory.mktemp("sam3") / "tracker.pt"
    torch.save(theirs.state_dict(), path)
    return load_into(build_model(SMALL), path).eval()


class Dynamic:
    """The model with dynamic multimask, which Transformers' classes always use in evaluation."""

    def __init__(self, model: TrackAnything) -> None:
        self.attend, self.model = model.attend, model

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        return self.model.decode(f_m, features, prompts, dynamic_multimask=True)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Any:
        return self.model.memorize(f16, decoded)


def track_theirs(model: Any, images: Tensor, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Masks (2, s, s) of each frame; frame CORRECTED as it is after the correction."""
    modeling = __import__(type(model).__module__, fromlist=["torch"])
    names = {name: getattr(torch, name) for name in dir(torch)}
    # memories are rounded to bfloat16 there; ours are compared in full precision
    patch.setattr(modeling, "torch", SimpleNamespace(**{**names, "bfloat16": torch.float32}))
    session = modeling.Sam3TrackerVideoInferenceSession(
        video=images, video_height=SIDE, video_width=SIDE, inference_device="cpu", dtype=torch.float32
    )

    def say(t: int, clicks: dict[int, Any]) -> None:
        for object_id, given in clicks.items():
            points = torch.tensor([[[point for point, _ in given]]])
            labels = torch.tensor([[[label for _, label in given]]], dtype=torch.int32)
            session.add_point_inputs(session.obj_id_to_idx(object_id), t, {"point_coords": points, "point_labels": labels})
        session.obj_with_new_inputs = list(clicks)

    say(0, {object_id: (click,) for object_id, click in CLICKS.items()})
    masks = []
    for t in range(FRAMES):
        answer = model(session, frame_idx=t)
        if t == CORRECTED:
            say(t, CORRECTIONS)
            answer = model(session, frame_idx=t)
        masks.append(answer.pred_masks[:, 0])
    return masks


def track_ours(model: TrackAnything, images: Tensor, object_id: int) -> list[Tensor]:
    def said(given: Any) -> Prompts:
        return Prompts(torch.tensor([[point for point, _ in given]]), torch.tensor([[label for _, label in given]]))

    bank = MemoryBank(policy=RecallPolicy(clip_length=FRAMES, past_pointers_only=True, max_prompted=4))
    tracker, masks = Dynamic(model), []
    for t in range(FRAMES):
        features = model.encode(images[t : t + 1])
        words = {0: [said((CLICKS[object_id],))], CORRECTED: [None, said(CORRECTIONS[object_id])]}.get(t, [])
        pending = iter(words)
        output = observe(tracker, bank, features, t, lambda answer, pending=pending: next(pending, None))
        # there, a corrected frame is no prompted one, and masks from clicks are remembered in black and white
        bank = bank.write(t, model.memorize(features.f16, output.final, binarize=bool(words)), prompted=t == 0)
        masks.append(output.final.best[0, 0])
    return masks


@torch.inference_mode()
def test_eight_frames_with_clicks_a_correction_and_two_objects(
    theirs: Any, ours: TrackAnything, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ours.normalise(torch.from_numpy(waves(SIDE, FRAMES)).permute(0, 3, 1, 2))
    expected = torch.stack(track_theirs(theirs, images, monkeypatch))  # (T, 2, s, s)
    found = torch.stack([torch.stack(track_ours(ours, images, object_id)) for object_id in CLICKS], dim=1)
    scale = float(expected.abs().max())
    assert found.shape[-1] == 4 * SIDE // 14
    assert expected.std() > 0.05 * scale
    assert (expected[CORRECTED] - expected[CORRECTED - 1]).abs().max() > 0.01 * scale, "memory and correction matter"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)


def test_pixels_are_normalised_as_their_processor_does(ours: TrackAnything) -> None:
    from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

    assert tuple(ours.mean.flatten().tolist()) == tuple(Sam3ImageProcessor.image_mean)
    assert tuple(ours.std.flatten().tolist()) == tuple(Sam3ImageProcessor.image_std)


def whole_of(tracker: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tracker's tensors under the names of Transformers' whole SAM 3, among parts of a detector."""
    renamed = {}
    for name, tensor in tracker.items():
        if name.startswith("vision_encoder.backbone."):
            renamed[f"detector_model.{name}"] = tensor
        elif name.startswith("vision_encoder.neck."):
            renamed[name.replace("vision_encoder.neck.", "tracker_neck.")] = tensor
        else:
            renamed[f"tracker_model.{name}"] = tensor
    others = ("detector_model.text_encoder.a", "detector_model.vision_encoder.neck.b", "detector_model.detr_decoder.c")
    return {**renamed, **{f"{name}.weight": torch.zeros(2) for name in others}}


def metas_of(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAM 2's names under those of Meta's sam3.pt, with the tables and the class token that it has."""
    renamed = {"detector.transformer.decoder.d.weight": torch.zeros(2)}
    rows = (
        ("image_encoder.trunk.", "detector.backbone.vision_backbone.trunk."),
        ("image_encoder.neck.convs.", "detector.backbone.vision_backbone.sam2_convs."),
        ("memory_encoder.", "tracker.maskmem_backbone."),
        ("memory_attention.", "tracker.transformer.encoder."),
        ("", "tracker."),
    )
    for name, tensor in official.items():
        before, after = next(row for row in rows if name.startswith(row[0]))
        meta = after + name.removeprefix(before)
        if before == "image_encoder.trunk.":
            meta = meta.replace(".mlp.layers.0.", ".mlp.fc1.").replace(".mlp.layers.1.", ".mlp.fc2.")
            if name.endswith("pos_embed"):
                tensor = torch.cat((torch.full_like(tensor[:, :1], 9.0), tensor), dim=1)
        renamed[meta] = tensor
    renamed["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"] = torch.zeros(3)
    return renamed


@pytest.mark.parametrize("layout", ["transformers", "meta"])
def test_of_the_whole_sam_3_the_tracker_is_taken_and_the_rest_named(
    theirs: Any, ours: TrackAnything, tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sam3.pt"
    official = {official_name(name): tensor for name, tensor in ours.state_dict().items()}
    torch.save(whole_of(theirs.state_dict()) if layout == "transformers" else {"model": metas_of(official)}, path)
    model = load_into(build_model(SMALL), path)
    loaded = model.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    left = contents(path).left
    expected = {"detector_model.text_encoder": 1, "detector_model.vision_encoder": 1, "detector_model.detr_decoder": 1}
    assert left == (expected if layout == "transformers" else {"detector.transformer": 1})
    assert "holds the whole SAM 3: its tracker is taken" in caplog.text
    assert next(iter(left)) in caplog.text


@pytest.mark.parametrize("layout", ["alone", "whole"])
def test_names_are_compared_strictly(theirs: Any, tmp_path: Path, layout: str) -> None:
    state = dict(theirs.state_dict())
    state.pop("no_object_pointer")
    state["something_else"] = torch.zeros(1)
    path = tmp_path / "tracker.pt"
    torch.save(state if layout == "alone" else whole_of(state), path)
    with pytest.raises(ValueError, match=r"1 missing: no_obj_ptr; 1 unexpected: something_else"):
        load_into(build_model(SMALL), path)


def test_at_full_size_it_has_their_parameters() -> None:
    with torch.device("meta"):
        model = build_model(config("sam3_tracker"))
        theirs = transformers.Sam3TrackerVideoModel(transformers.Sam3TrackerVideoConfig())
    assert model.grid == (72, 72)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters()) == 465_782_146
