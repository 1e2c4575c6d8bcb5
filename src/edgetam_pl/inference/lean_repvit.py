"""RepViT's three parallel branches while training on a CPU, in fewer passes over memory; equal up to rounding.

A block adds a normalised depthwise 3x3 convolution of x, a normalised multiple s x of each channel, and x. Mean and variance
of s x follow from those of x, so that branch and x itself are one factor and one offset a channel: nothing of them is
written to memory, and their gradients come down in one piece.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edgetam_pl.inference.onednn import suits
from edgetam_pl.model.trunks import RepVggDw

OF_CHANNELS = (1, -1, 1, 1)


class LeanRepVggDw(RepVggDw):
    """As timm's, which computes what is not a training on a CPU with batch statistics, or not the form of RepViT-M1."""

    conv: Any  # a convolution `c` and a norm `bn`
    conv1: Any

    def forward(self, x: Tensor) -> Tensor:
        if not (self.legacy and self.training and suits(x) and _by_batches(self.conv.bn) and _by_batches(self.conv1.bn)):
            return super().forward(x)
        scale, norm, other = self.conv1.c.weight.flatten(), self.conv1.bn, self.conv.bn
        mean, variance = _statistics(x.detach())
        factor = scale.detach() * norm.weight.detach() * _inverse(scale.detach(), variance, norm.eps)
        _remember(norm, scale.detach() * mean, scale.detach() ** 2 * variance, x.numel() // x.shape[1])
        # the other branch's norm adds the offset on its way
        _count(other)
        offset = other.bias.detach() + norm.bias.detach() - factor * mean
        y = F.batch_norm(
            self.conv.c(x), other.running_mean, other.running_var, other.weight, offset, True, other.momentum, other.eps
        )
        return _Scaled.apply(y, x, scale, norm.weight, norm.bias, other.bias, mean, variance, norm.eps)


class _Scaled(torch.autograd.Function):
    """y plus the norm of scale * x, plus x; y has got the offsets of both norms, whose gradients are given here."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, scale: Tensor, weight: Tensor, _: Tensor, __: Tensor, mean: Tensor, variance: Tensor,
        eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, scale, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_dirty(y)
        factor = 1 + scale * weight * _inverse(scale, variance, eps)
        return y.addcmul_(x, factor.view(OF_CHANNELS))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, weight, mean, variance = ctx.saved_tensors
        count, inverse = x.numel() // x.shape[1], _inverse(scale, variance, ctx.eps)
        factor = scale * weight * inverse
        # slopes of offset and factor, then of what they are made of
        by_offset = slope.sum(dim=(0, 2, 3))
        by_factor = (slope * x).sum(dim=(0, 2, 3)) - mean * by_offset
        by_scale = by_factor * weight * inverse**3 * ctx.eps
        by_variance = by_factor * weight * inverse**3 * scale**3 / -2
        # d(mean) / dx is 1 / count, d(variance) / dx is 2 (x - mean) / count
        growth = 2 * by_variance / count
        start = -factor * by_offset / count - growth * mean
        by_x = torch.addcmul(start.view(OF_CHANNELS), x, growth.view(OF_CHANNELS))
        by_x.addcmul_(slope, (1 + factor).view(OF_CHANNELS))
        return slope, by_x, by_scale, by_factor * scale * inverse, by_offset, by_offset, None, None, None


def _by_batches(norm: nn.BatchNorm2d) -> bool:
    """Does it normalise by the batch's statistics, and remember them in the usual way?"""
    plain = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats
    return plain and norm.training and norm.momentum is not None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x (B, C, H, W)."""
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def _inverse(scale: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (scale**2 * variance + eps).rsqrt()


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    _count(norm)
    norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr]
    norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)  # type: ignore[union-attr]


def _count(norm: nn.BatchNorm2d) -> None:
    if norm.num_batches_tracked is not None:  # None while a pass is recomputed
        norm.num_batches_tracked.add_(1)
