"""Our models give the released code's numbers, part by part and over tracked frames, on deterministic weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference import assert_matches, filled, image, recorded
from torch import Tensor
from torch.nn import functional as F

from edgetam_pl.model.attention import Keys
from edgetam_pl.model.memory_encoder import as_evidence
from edgetam_pl.model.position import Rotation, sine_map
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.step import PromptFn, step
from edgetam_pl.types import Decoded, ImageFeatures, Prompts

NAMES = ("edgetam", "sam2.1_hiera_tiny", "efficienttam_ti_1", "efficienttam_ti_512x512")


class Case:
    """One model with the reference's weights, and what the reference gave."""

    def __init__(self, name: str) -> None:
        self.model = filled(name)
        self.expected = recorded(name)
        self.size = self.model.image_size
        self._features: dict[int, ImageFeatures] = {}

    def features(self, t: int) -> ImageFeatures:
        """Of image t, which several tests look at."""
        if t not in self._features:
            self._features[t] = self.model.encode(image(self.size, t))
        return self._features[t]


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with torch.inference_mode():
        yield Case(request.param)


def test_the_image_encoder_gives_the_released_features(case: Case) -> None:
    levels = [level for level in case.features(0) if level is not None]
    for i, level in enumerate(levels):
        assert_matches(level, case.expected[f"fpn{i}"], name=f"fpn{i}")
    assert f"fpn{len(levels)}" not in case.expected
    grid = case.size // 16
    assert_matches(sine_map(grid, grid, 256)[None], case.expected["vision_pos_last"], name="vision_pos_last")


def test_points_boxes_and_masks_are_embedded_as_released(case: Case) -> None:
    encoder = case.model.prompt_encoder
    points, labels = _points(case.size)
    assert_matches(encoder.embed_points(points, labels), case.expected["prompt_sparse"], name="prompt_sparse")
    grid = case.size // 16
    nothing = encoder.embed_mask(None).expand(-1, -1, grid, grid)
    assert_matches(nothing, case.expected["prompt_dense_nomask"], name="prompt_dense_nomask")
    dense = encoder.embed_mask(_mask_prompt(case.size))
    assert_matches(dense, case.expected["prompt_dense_mask"], name="prompt_dense_mask")
    pos = encoder.image_pos.T.reshape(1, -1, grid, grid)
    assert_matches(pos, case.expected["dense_pe"], name="dense_pe")


def test_the_mask_decoder_gives_the_released_candidates(case: Case) -> None:
    model = case.model
    tokens = model.prompt_encoder.embed_points(*_points(case.size))
    dense = model.prompt_encoder.embed_mask(None)
    f4, f8, f16 = case.features(0)
    found = model.mask_decoder(f16, model.prompt_encoder.image_pos, tokens, dense, f4=f4, f8=f8)
    for suffix, chosen in (("mm1", slice(1, 4)), ("mm0", slice(0, 1))):
        assert_matches(found.logits[:, chosen], case.expected[f"dec_masks_{suffix}"], name=f"dec_masks_{suffix}")
        assert_matches(found.iou[:, chosen], case.expected[f"dec_ious_{suffix}"], name=f"dec_ious_{suffix}")
        assert_matches(found.tokens[:, chosen], case.expected[f"dec_tok_{suffix}"], name=f"dec_tok_{suffix}")
        assert_matches(found.presence, case.expected[f"dec_objscore_{suffix}"], name=f"dec_objscore_{suffix}")


def test_memory_is_encoded_and_compressed_as_released(case: Case) -> None:
    evidence = as_evidence(_mask_prompt(case.size), size=case.size, binarize=False)
    memory = case.model.memory_encoder(case.features(0).f16, evidence, torch.tensor([True]))
    assert_matches(memory, case.expected["memenc_feat"], name="memenc_feat")
    assert_matches(sine_map(*memory.shape[-2:], 64)[None], case.expected["memenc_pos"], name="memenc_pos")
    if "perceiver_feat" in case.expected:
        assert_matches(case.model.compressor(memory), case.expected["perceiver_feat"], name="perceiver_feat")
        assert_matches(case.model.compressor.pos, case.expected["perceiver_pos"], name="perceiver_pos")


def test_memory_attention_gives_the_released_features(case: Case) -> None:
    attention = case.model.memory_attention
    grid, per_frame, pointer_tokens = case.size // 16, attention.num_tokens, 8
    draw = np.random.RandomState(9)
    shapes = ((grid * grid, 2, 256), (grid * grid, 2, 256), *[(2 * per_frame + pointer_tokens, 2, 64)] * 2)
    current, current_pos, memory, memory_pos = (
        torch.from_numpy(draw.standard_normal(shape).astype(np.float32)).transpose(0, 1) for shape in shapes
    )
    # blend adds our own sine map; the recorded run had a random one
    x = current + 0.1 * current_pos - attention.pos
    f16 = x.transpose(1, 2).unflatten(2, (grid, grid))
    rotation = Rotation(
        F.pad(attention.key_cos.repeat(2, 1), (0, 0, 0, pointer_tokens), value=1.0),
        F.pad(attention.key_sin.repeat(2, 1), (0, 0, 0, pointer_tokens)),
    )
    found = attention.blend(f16, Keys(memory, memory_pos, rotation, num_frames=2))
    assert_matches(found.flatten(2).permute(2, 0, 1), case.expected["memattn_out"], name="memattn_out")


@pytest.mark.parametrize("kind", ["point", "mask"])
def test_tracking_gives_the_released_masks_pointers_and_memories(case: Case, kind: str) -> None:
    num_frames = sum(1 for name in case.expected if name.startswith(kind) and name.endswith("_objscore"))
    bank = MemoryBank(policy=RecallPolicy(past_pointers_only=True, clip_length=num_frames))
    for t in range(num_frames):
        output, bank = step(case.model, bank, case.features(t), t, _ask(_first_prompt(kind, case.size) if t == 0 else None))
        memory = bank.frames_at(t + 1)[0][1] if t == 0 else bank.frames_at(t + 1)[-1][1]
        answer, name = output.final, f"{kind}_f{t}"
        assert_matches(answer.best, case.expected[f"{name}_pred_masks"], name=f"{name}_pred_masks")
        assert_matches(answer.pointer, case.expected[f"{name}_obj_ptr"], name=f"{name}_obj_ptr")
        assert_matches(answer.presence, case.expected[f"{name}_objscore"], name=f"{name}_objscore")
        stored = memory.tokens  # maps are recorded as maps
        if len(case.expected[f"{name}_maskmem"]["shape"]) == 4:
            stored = stored.transpose(1, 2).unflatten(2, memory.grid)
        assert_matches(stored, case.expected[f"{name}_maskmem"], name=f"{name}_maskmem")


def _points(size: int) -> tuple[Tensor, Tensor]:
    points = torch.tensor([[[100.0, 200], [700, 50], [300, 900], [10, 20], [0, 0]]]) * size / 1024
    return points, torch.tensor([[1, 0, 2, 3, -1]])


def _mask_prompt(size: int) -> Tensor:
    values = np.random.RandomState(5).standard_normal((1, 1, size // 4, size // 4))
    return torch.from_numpy(values.astype(np.float32))


def _first_prompt(kind: str, size: int) -> Prompts:
    if kind == "point":
        return Prompts(points=torch.tensor([[[400.0, 300.0]]]) * size / 1024, labels=torch.tensor([[1]]))
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., size // 4 : size // 2, size // 3 : 2 * size // 3] = True
    return Prompts(mask=mask)


def _ask(prompts: Prompts | None) -> PromptFn:
    """A person who speaks once, or not at all."""

    def ask(answer: Decoded | None) -> Prompts | None:
        return prompts if answer is None else None

    return ask
