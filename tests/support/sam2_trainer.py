"""SAM 2's training step, written after its published trainer around the published model, and what it gives, recorded.

    python tests/support/sam2_trainer.py        # needs edgetam-dimos; writes tests/parity/fixtures/trainer.json

Of the trainer this is what decides a loss: prompted frames first, correction clicks that are added to the ones before
together with the last mask, a memory of every frame, and the sum over all answers of focal, dice, IoU and presence. The
first three count where the object is there, and for the best of several candidates (IoU: for all). Where clicks fall is
given: a trainer draws them. Weights, frames, masks and clicks are formulas, so nothing but results is recorded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIXTURE = Path(__file__).parents[1] / "parity" / "fixtures" / "trainer.json"
SIZE, FRAMES, OBJECTS = 256, 4, 2
INITIAL, CORRECTED = (0,), (0, 2)
WEIGHTS = {"focal": 20.0, "dice": 1.0, "iou": 1.0, "presence": 1.0}

CLICKS: dict[int, list[tuple[Tensor, Tensor]]] = {
    # frame: (points (O, n, xy), labels (O, n)) of each prompt in turn; they add up. Chosen so that no logit lies within
    # rounding of zero: one pixel that changes sides moves the IoU by 3e-6.
    0: [
        (torch.tensor([[[79.0, 99.0]], [[189.0, 159.0]]]), torch.tensor([[1], [1]])),
        (torch.tensor([[[95.0, 60.0]], [[20.0, 20.0]]]), torch.tensor([[1], [0]])),
        (torch.tensor([[[200.0, 220.0]], [[190.0, 170.0]]]), torch.tensor([[0], [1]])),
    ],
    2: [
        (torch.tensor([[[90.0, 100.0]], [[100.0, 30.0]]]), torch.tensor([[1], [0]])),
        (torch.tensor([[[30.0, 200.0]], [[175.0, 140.0]]]), torch.tensor([[0], [1]])),
    ],
}

PARAMETERS = (
    "image_encoder.trunk.body.stem.conv1.c.weight",
    "image_encoder.trunk.body.stages_2.blocks.0.token_mixer.conv.c.weight",
    "image_encoder.neck.convs.1.conv.weight",
    "sam_mask_decoder.conv_s0.weight",
    "sam_mask_decoder.mask_tokens.weight",
    "sam_mask_decoder.iou_prediction_head.layers.2.weight",
    "sam_mask_decoder.pred_obj_score_head.layers.0.weight",
    "sam_prompt_encoder.point_embeddings.1.weight",
    "sam_prompt_encoder.mask_downscaling.0.weight",
    "memory_attention.layers.0.cross_attn_image.k_proj.weight",
    "memory_attention.layers.1.linear1.weight",
    "memory_encoder.fuser.layers.0.dwconv.weight",
    "spatial_perceiver.latents",
    "obj_ptr_proj.layers.0.weight",
    "maskmem_tpos_enc",
    "no_mem_embed",
)
"""Whose gradients are compared: every part, and all that memory goes through."""


def truth() -> Tensor:
    """(T, O, S, S) bool: a disc and a box that move; the box is gone on frame 1."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    masks = torch.zeros(FRAMES, OBJECTS, SIZE, SIZE, dtype=torch.bool)
    for t in range(FRAMES):
        masks[t, 0] = (x - 80 - 6 * t) ** 2 + (y - 85 - 4 * t) ** 2 < 40**2
        masks[t, 1] = (abs(x - 180 + 5 * t) < 28) & (abs(y - 150) < 36)
    masks[1, 1] = False
    return masks


def summary(gradient: Tensor) -> dict[str, Any]:
    """What is recorded of a gradient: its norm, its largest value, and values at eight places."""
    flat = gradient.flatten().double()
    places = torch.linspace(0, len(flat) - 1, 8).long()
    return {"norm": flat.norm().item(), "largest": flat.abs().max().item(), "values": flat[places].tolist()}


def train_step(model: nn.Module, images: Tensor, masks: Tensor, o: int) -> dict[str, Tensor]:
    """Losses by term of object `o` in one clip: `SAM2Train.forward_tracking` and `MultiStepMultiMasksAndIous`. Objects know
    nothing of one another, and the package's perceiver takes one at a time.

    Args:
        model: the package's SAM2Base, in training mode.
        images: (T, 3, S, S), normalised.
        masks: (T, O, S, S) bool.
    """
    base: Any = model
    masks = masks[:, o : o + 1]
    _, features, positions, sizes = base._prepare_backbone_features(base.forward_image(images))
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    losses = {name: images.new_zeros(()) for name in WEIGHTS}
    for t in (*INITIAL, *(t for t in range(FRAMES) if t not in INITIAL)):
        rows = torch.tensor([t])
        seen, where = [level[:, rows] for level in features], [level[:, rows] for level in positions]
        clicks = [_inputs(click, o) for click in CLICKS.get(t, ())]
        points = clicks.pop(0) if t in INITIAL else None
        out, heads, high_res, conditioned = base._track_step(
            t, t in INITIAL, seen, where, sizes, points, None, outputs, FRAMES, False, None
        )
        _add(losses, heads, masks[t])
        for more in clicks if t in CORRECTED else ():
            points = more if points is None else _joined(points, more)
            heads = base._forward_sam_heads(
                backbone_features=conditioned,
                point_inputs=points,
                mask_inputs=heads[3],  # the best mask of the answer before, low resolution
                high_res_features=high_res,
                multimask_output=base._use_multimask(t in INITIAL, points),
            )
            _add(losses, heads, masks[t])
        out["pred_masks"], out["pred_masks_high_res"], out["obj_ptr"] = heads[3], heads[4], heads[5]
        base._encode_memory_in_output(seen, sizes, points, True, heads[4], heads[6], out)
        prompted = t in INITIAL or t in CORRECTED  # add_all_frames_to_correct_as_cond
        outputs["cond_frame_outputs" if prompted else "non_cond_frame_outputs"][t] = out
    return losses


def _inputs(click: tuple[Tensor, Tensor], o: int) -> dict[str, Tensor]:
    return {"point_coords": click[0][o : o + 1], "point_labels": click[1][o : o + 1].int()}


def _joined(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.cat([before[key], after[key]], dim=1) for key in before}


def _add(losses: dict[str, Tensor], heads: Any, target: Tensor) -> None:
    """One answer's losses, divided by the number of objects."""
    _, logits, ious, _, _, _, presence = heads  # logits (O, M, S, S), up-sampled
    truth = target[:, None].float().expand_as(logits)
    there = target.flatten(1).any(dim=1)[:, None].float()  # (O, 1)
    # focal, alpha 0.25 and gamma 2, mean over pixels
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    p_t = p * truth + (1 - p) * (1 - truth)
    alpha = 0.25 * truth + 0.75 * (1 - truth)
    focal = (alpha * cross_entropy * (1 - p_t) ** 2).flatten(2).mean(-1)  # (O, M)
    # dice, with one added above and below
    inside = (p * truth).flatten(2).sum(-1)
    dice = 1 - (2 * inside + 1) / (p.flatten(2).sum(-1) + truth.flatten(2).sum(-1) + 1)
    # the IoU that is predicted, against the one there is
    shown, wanted = logits.flatten(2) > 0, truth.flatten(2) > 0
    actual = (shown & wanted).sum(-1).float() / (shown | wanted).sum(-1).float().clamp(min=1.0)
    iou = (ious - actual).abs()
    if logits.shape[1] > 1:
        best = (WEIGHTS["focal"] * focal + WEIGHTS["dice"] * dice).argmin(dim=-1)
        focal, dice = focal.gather(1, best[:, None]), dice.gather(1, best[:, None])
        iou = iou.mean(dim=-1)[:, None]
    for name, value in (("focal", focal), ("dice", dice), ("iou", iou)):
        losses[name] = losses[name] + (value * there).sum() / OBJECTS
    unsure = F.binary_cross_entropy_with_logits(presence, there, reduction="none")  # focal with gamma 0, no alpha
    losses["presence"] = losses["presence"] + unsure.sum() / OBJECTS


def without_chance(model: nn.Module) -> nn.Module:
    """Training mode without dropout and with BatchNorm's statistics standing still."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_p"):
            module.dropout_p = 0.0  # type: ignore[assignment]
    return model


def main() -> None:
    sys.path.insert(0, str(FIXTURE.parents[1]))
    from reference import waves
    from test_live import Pair

    pair = Pair("edgetam")
    model = without_chance(pair.reference)
    images = pair.model.normalise(torch.from_numpy(waves(SIZE, FRAMES)).permute(0, 3, 1, 2))
    each = [train_step(model, images, truth(), o) for o in range(OBJECTS)]
    losses = {name: sum((one[name] for one in each), images.new_zeros(())) for name in WEIGHTS}
    sum((WEIGHTS[name] * value for name, value in losses.items()), images.new_zeros(())).backward()
    parameters = dict(model.named_parameters())
    found = {name: parameters[name].grad for name in PARAMETERS}
    content = {
        "losses": {name: value.item() for name, value in losses.items()},
        "gradients": {name: summary(gradient) for name, gradient in found.items() if gradient is not None},
    }
    FIXTURE.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["losses"]), {name: round(one["norm"], 6) for name, one in content["gradients"].items()})


if __name__ == "__main__":
    main()
