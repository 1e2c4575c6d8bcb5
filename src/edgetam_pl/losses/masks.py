"""Mask losses: focal, dice, predicted IoU, presence (SAM 2 release). Per object and candidate, nothing summed or weighted.

Two forms, equal in value and gradient: `focal`, `dice` and `iou` on full-resolution logits are the definition; `score` takes
the decoder's low-resolution logits and keeps nothing of full resolution for the backward pass, which is what training uses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

ALPHA = 0.25
"""Weight of object pixels in the focal loss; background pixels get 1 - ALPHA. The exponent is 2. (SAM 2 release)"""

CHUNK_PIXELS = 2**23
"""`score` works on so many full-resolution pixels at a time: 8 objects at 1024 x 1024, 32 MiB a temporary."""

CHUNK_PIXELS_CPU = 2**16
"""The same on a CPU, where less than an object is taken at a time, so that temporaries stay in the cache."""


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
    return Scores(*_Score.apply(logits, truth))


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wants_gradient = logits.requires_grad
        rows = max(_chunk(truth.device) // truth.shape[-1] ** 2, 1)
        parts = []
        for some, true in zip(logits.split(rows), truth.split(rows), strict=True):
            on = true.float()
            columns = [_score_chunk(some[:, m], on, wants_gradient) for m in range(logits.shape[1])]
            parts.append([torch.stack(column, dim=1) for column in zip(*columns, strict=True)])
        focal_, dice_, iou_, *slopes = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(iou_)
        ctx.save_for_backward(*slopes)
        ctx.dtype = logits.dtype
        return focal_, dice_, iou_

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_focal, by_dice, _ = slopes  # (O, M) each; IoU has none
        focal_slope, dice_slope = ctx.saved_tensors  # (O, M, s, s), (O, M, s, s)
        slope = by_focal[:, :, None, None] * focal_slope + by_dice[:, :, None, None] * dice_slope
        return slope.to(ctx.dtype), None


def _chunk(device: torch.device) -> int:
    return CHUNK_PIXELS_CPU if device.type == "cpu" else CHUNK_PIXELS


def _score_chunk(logits: Tensor, on: Tensor, wants_gradient: bool) -> tuple[Tensor, ...]:
    """Focal, dice and IoU (O,) of logits (O, s, s), and their slopes (O, s, s) if wanted. `on` (O, S, S) is 1 on the object,
    0 elsewhere."""
    size = on.shape[-1]
    x = upsampled(logits.detach()[:, None], size)[:, 0]  # (O, S, S)
    x = x.clone() if size == logits.shape[-1] else x  # it is overwritten
    spread = torch.empty_like(x) if wants_gradient else None

    lines = max(_chunk(x.device) // (len(x) * size), 1)
    strips = [slice(first, first + lines) for first in range(0, size, lines)]
    sums = [_score_strip(x[:, s], on[:, s], None if spread is None else spread[:, s]) for s in strips]
    shown, both, focal_sum, missed, doubt, area = torch.stack(sums).sum(dim=0)  # (O,) each

    iou_ = both / (shown + area - both).clamp(min=1)
    focal_ = focal_sum * ((1 - ALPHA) / size**2)
    overlap, extra = area - missed, doubt - missed  # sum of p on the object, and elsewhere
    top, bottom = 2 * overlap + 1, overlap + extra + area + 1
    dice_ = 1 - top / bottom
    if spread is None:
        return focal_, dice_, iou_

    outside, inside = top / bottom**2, -2 / bottom + top / bottom**2  # (O,), (O,): d dice / dp
    for s in strips:
        by_place = on[:, s] * (inside - outside)[:, None, None]
        spread[:, s].mul_(by_place.add_(outside[:, None, None]))
    focal_slope, dice_slope = _back(x, spread, side=logits.shape[-1])
    return focal_, dice_, iou_, focal_slope * ((1 - ALPHA) / size**2), dice_slope


def _score_strip(x: Tensor, on: Tensor, spread: Tensor | None) -> Tensor:
    """Sums (6, O) over some lines of logits x (O, lines, S): pixels of the mask, those on the object, focal loss, 1 - p on
    the object, p of being wrong anywhere, pixels of the object. If `spread` is given, it becomes dp/dx, and x the slope of
    the focal loss; both that and its sum lack a factor 1 - ALPHA.

    With z the logit of being right (+x on the object, -x elsewhere), q = sigmoid(-z) = 1 - p_t and b = softplus(-z) = BCE:
    focal is alpha q^2 b with d/dz = -alpha q^2 (2 (1 - q) b + q), and dp/dx = q (1 - q) for dice.
    """
    mask = torch.gt(x, 0, out=torch.empty_like(x))  # numbers at once; whole ones below 2^24 are exact
    shown, both = mask.sum(dim=(1, 2)), mask.mul_(on).sum(dim=(1, 2))
    minus_z = torch.addcmul(x, on, x, value=-2)
    b, q = F.softplus(minus_z), minus_z.sigmoid_()
    q_on = on * q
    missed = q_on.sum(dim=(1, 2))
    alpha_qq = q_on.mul_(ALPHA / (1 - ALPHA) - 1).add_(q).mul_(q)
    focal_sum = (alpha_qq * b).sum(dim=(1, 2))
    if spread is not None:
        right = 1 - q
        slope = b.mul_(right).mul_(2).add_(q).mul_(alpha_qq)
        torch.addcmul(slope, on, slope, value=-2, out=x)  # dx = +-dz
        torch.mul(q, right, out=spread)
    return torch.stack((shown, both, focal_sum, missed, q.sum(dim=(1, 2)), on.sum(dim=(1, 2))))


def _back(*slopes: Tensor, side: int) -> tuple[Tensor, ...]:
    """Slopes with respect to what was up-sampled (O, s, s), from those with respect to the outcome (O, S, S)."""
    size = slopes[0].shape[-1]
    if size == side:
        return slopes
    if slopes[0].device.type == "cpu":  # two products of matrices take a sixth of the time of the kernel
        spread = _spread(side, size)
        return tuple(spread @ slope @ spread.T for slope in slopes)
    with torch.enable_grad():
        low = slopes[0].new_zeros(len(slopes[0]), 1, side, side).requires_grad_()
        full = upsampled(low, size)  # its graph keeps shapes only
    return tuple(torch.autograd.grad(full, low, slope[:, None], retain_graph=True)[0][:, 0] for slope in slopes)


def _spread(side: int, size: int) -> Tensor:
    """(s, S): how much of each number goes where, in a line of `side` numbers that is up-sampled to `size`."""
    return torch.from_numpy(_shares(side, size))


@lru_cache(maxsize=8)
def _shares(side: int, size: int) -> NDArray[np.float32]:
    """What `_spread` holds. NumPy's, as a kept tensor would be of the mode and device that it was first asked for in: in
    a step of shapes alone (FakeTensorMode), and no later gradient would have values."""
    at = np.maximum((np.arange(size) + 0.5) * side / size - 0.5, 0)
    low = at.astype(np.int64)
    shares = np.zeros((side, size), np.float32)
    np.add.at(shares, (low, np.arange(size)), 1 - (at - low))
    np.add.at(shares, (np.minimum(low + 1, side - 1), np.arange(size)), at - low)
    return shares
