"""Mask losses: focal, dice, predicted IoU, presence (SAM 2 release). Per object and candidate, nothing summed or weighted.

Two forms, equal in value and gradient: `focal`, `dice` and `iou` on full-resolution logits are the definition; `score` takes
the decoder's low-resolution logits and keeps nothing of full resolution for the backward pass, which is what training uses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ALPHA = 0.25
"""Weight of object pixels in the focal loss; background pixels get 1 - ALPHA. The exponent is 2. (SAM 2 release)"""

CHUNK_PIXELS = 2**23
"""`score` works on so many full-resolution pixels at a time: 8 objects at 1024 x 1024, 32 MiB a temporary."""


class Scores(NamedTuple):
    """How good O masks are; `iou` carries no gradient."""

    focal: Tensor  # (O, M)
    dice: Tensor  # (O, M)
    iou: Tensor  # (O, M) of the mask at logit 0, in 0 ... 1


def upsampled(logits: Tensor, size: int) -> Tensor:
    """Logits (O, M, s, s) as (O, M, size, size) in fp32: bilinear, corners not aligned (SAM 2 release)."""
    logits = logits.float()
    if logits.shape[-1] == size:
        return logits
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """(O, M): mean over pixels of alpha_t (1 - p_t)^2 BCE. `logits` (O, M, S, S), `truth` (O, S, S) bool."""
    target = truth[:, None].expand_as(logits).to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = ALPHA * target + (1 - ALPHA) * (1 - target)
    return (alpha_t * (1 - p_t) ** 2 * bce).mean(dim=(2, 3))


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """(O, M): 1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1). `logits` (O, M, S, S), `truth` (O, S, S) bool."""
    target = truth[:, None].to(logits.dtype)
    p = logits.sigmoid()
    overlap = (p * target).sum(dim=(2, 3))
    return 1 - (2 * overlap + 1) / (p.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) + 1)


@torch.no_grad()
def iou(logits: Tensor, truth: Tensor) -> Tensor:
    """(O, M): intersection over union of logits > 0 with the truth; an empty union counts as one pixel."""
    mask, target = logits > 0, truth[:, None]
    return (mask & target).sum(dim=(2, 3)) / (mask | target).sum(dim=(2, 3)).clamp(min=1)


def presence(logit: Tensor, present: Tensor) -> Tensor:
    """(O, 1): binary cross-entropy of the presence logit (O, 1) against `present` (O,) bool."""
    return F.binary_cross_entropy_with_logits(logit.float(), present[:, None].float(), reduction="none")


def score(logits: Tensor, truth: Tensor) -> Scores:
    """`focal`, `dice` and `iou` of logits (O, M, s, s) up-sampled to the size of the truth (O, S, S).

    The gradient with respect to the low-resolution logits is computed in the forward pass, a few objects at a time, so
    what stays in memory until backward is 2 s*s numbers per mask in place of some 6 S*S (S = 4 s). First derivatives only.
    """
    columns = [_Score.apply(logits[:, m], truth) for m in range(logits.shape[1])]
    return Scores(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wants_gradient = logits.requires_grad
        size = truth.shape[-1]
        rows = max(CHUNK_PIXELS // size**2, 1)
        parts = [
            _score_chunk(some, true, wants_gradient)
            for some, true in zip(logits.split(rows), truth.split(rows), strict=True)
        ]
        focal_, dice_, iou_, *slopes = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(iou_)
        ctx.save_for_backward(*slopes)
        ctx.dtype = logits.dtype
        return focal_, dice_, iou_

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_focal, by_dice, _ = slopes  # (O,) each; IoU has none
        focal_slope, dice_slope = ctx.saved_tensors  # (O, s, s), (O, s, s)
        slope = by_focal[:, None, None] * focal_slope + by_dice[:, None, None] * dice_slope
        return slope.to(ctx.dtype), None


def _score_chunk(logits: Tensor, truth: Tensor, wants_gradient: bool) -> tuple[Tensor, ...]:
    """Focal, dice and IoU (O,) of logits (O, s, s), and their slopes (O, s, s) if wanted.

    With z the logit of being right (+x on the object, -x elsewhere), q = sigmoid(-z) = 1 - p_t and b = softplus(-z) = BCE:
    focal is alpha q^2 b with d/dz = -alpha q^2 (2 (1 - q) b + q), and dp/dx = q (1 - q) for dice.
    """
    pixels = truth.shape[-1] ** 2
    with torch.set_grad_enabled(wants_gradient):
        low = logits.detach()[:, None].float().requires_grad_(wants_gradient)  # (O, 1, s, s)
        full = upsampled(low, truth.shape[-1])  # (O, 1, S, S); its graph keeps shapes only
    x = full.detach()[:, 0]  # (O, S, S)

    mask = x > 0
    iou_ = (mask & truth).sum(dim=(1, 2)) / (mask | truth).sum(dim=(1, 2)).clamp(min=1)  # (O,)
    minus_z = torch.where(truth, -x, x)
    q = minus_z.sigmoid()
    b = F.softplus(minus_z)
    alpha = torch.where(truth, ALPHA, 1 - ALPHA)
    alpha_qq = alpha * q * q
    focal_ = (alpha_qq * b).sum(dim=(1, 2)) / pixels  # (O,)
    area = truth.sum(dim=(1, 2)).to(q.dtype)
    missed = (q * truth).sum(dim=(1, 2))  # (O,) sum of 1 - p on the object
    overlap, extra = area - missed, q.sum(dim=(1, 2)) - missed  # sum of p on the object, and elsewhere
    top, bottom = 2 * overlap + 1, overlap + extra + area + 1
    dice_ = 1 - top / bottom
    if not wants_gradient:
        return focal_, dice_, iou_

    pp = q * (1 - q)  # dp/dx
    focal_slope = alpha_qq.mul_(b.mul_(1 - q).mul_(2).add_(q)).div_(pixels)
    focal_slope = torch.where(truth, -focal_slope, focal_slope)  # dx = +-dz
    inside, outside = -2 / bottom + top / bottom**2, top / bottom**2  # (O,), (O,): d dice / dp
    dice_slope = pp.mul_(torch.where(truth, inside[:, None, None], outside[:, None, None]))
    if full is low:
        return focal_, dice_, iou_, focal_slope, dice_slope
    slopes = [
        torch.autograd.grad(full, low, slope[:, None], retain_graph=True)[0][:, 0] for slope in (focal_slope, dice_slope)
    ]  # (O, S, S) -> (O, s, s)
    return focal_, dice_, iou_, *slopes
