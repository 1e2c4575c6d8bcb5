"""Layers for training on a CPU that compute the same, up to rounding, with fewer multiplications and passes over memory.

* The neck's two 1x1 convolutions in a row become one product: the widest map of all, and its gradient, are never made.
* The mask decoder's up-sampling, 2x2 convolutions that do not overlap, is two products of matrices on rows of pixels; the
  activations between them and their gradients lie in one order, without which PyTorch's kernels are ten times slower.
* Dropout, also of attention's weights, draws 16 bits a number instead of a number of its own, and keeps a byte of it for the
  backward pass instead of four. The drawn numbers are others than PyTorch's, their share is exact to 1 / 65536. What is left
  grows in a smaller tensor that it is multiplied by; behind a ReLU or a softmax no trace is kept but the outcome itself.
* Attention between the image and few tokens (`few_tokens`), and RepViT's branches (`lean_repvit`).

All are classes with the parameters and names of those they stand for, and leave other devices, autocast, converters and
compilers to those.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edgetam_pl.inference.few_tokens import FewTokensAttention
from edgetam_pl.inference.lean_repvit import LeanRepVggDw
from edgetam_pl.inference.onednn import product, suits
from edgetam_pl.model.attention import Attention, CrossAttention, Keys, WeightedSum
from edgetam_pl.model.image_encoder import FPN
from edgetam_pl.model.mask_decoder import MaskDecoder
from edgetam_pl.model.memory_attention import MemoryBlock
from edgetam_pl.model.position import Rotation, rotate
from edgetam_pl.model.trunks import RepVggDw
from edgetam_pl.types import ImageFeatures

STEPS = 2**16
"""Of the share that dropout drops."""

STRIP = 2**16
"""Numbers of attention's weights and of hidden layers that are worked on at a time."""


def use_lean_layers(model: nn.Module, *only: type[nn.Module]) -> None:
    """Exchange what there is a leaner class for, or `only` these, in place."""
    for module in model.modules():
        if type(module) in (only or LEAN):
            module.__class__ = LEAN[type(module)]  # parameters, names and mode stay


class LeanFPN(FPN):
    """The neck; strides 4 and 8 by one product each."""

    def forward(self, maps: list[Tensor]) -> ImageFeatures:
        if not all(suits(x) and _rows(x).is_contiguous() for x in maps):
            return super().forward(maps)
        x4, x8, x16, x32 = maps
        coarse = F.interpolate(self.lateral["s32"](x32), scale_factor=2.0, mode="nearest")
        return ImageFeatures(
            _in_a_row(x4, self.lateral["s4"], self.project_f4),
            _in_a_row(x8, self.lateral["s8"], self.project_f8),
            self.lateral["s16"](x16) + coarse,
        )


class LeanMaskDecoder(MaskDecoder):
    """The mask decoder; pixels stay rows of channels to the end."""

    def _upscale(self, x: Tensor, f4: Tensor | None, f8: Tensor | None) -> Tensor:
        if not suits(x):
            return super()._upscale(x, f4, f8)
        rows = _doubled(_rows(x), self.upscale_f8)  # (O, 2h, 2w, C/4)
        rows = rows if f8 is None else rows + _rows(f8)
        norm = self.upscale_norm
        rows = F.gelu(F.layer_norm(rows, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        rows = _doubled(rows, self.upscale_f4)  # (O, 4h, 4w, C/8)
        return F.gelu(rows if f4 is None else rows + _rows(f4)).permute(0, 3, 1, 2)

    def _logits(self, kernels: Tensor, pixels: Tensor) -> Tensor:
        if not suits(pixels):
            return super()._logits(kernels, pixels)
        return (_rows(pixels).flatten(1, 2) @ kernels.mT).mT.unflatten(2, pixels.shape[-2:])


class LeanDropout(nn.Dropout):
    """Dropout."""

    def forward(self, input: Tensor) -> Tensor:
        return dropped(input, self.p) if self.training and suits(input) else super().forward(input)


class LeanWeightedSum(WeightedSum):
    """Attention of one head, whose weights are dropped."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        rate = self.dropout.p if self.dropout.training else 0.0
        if not rate or q.shape[1] != 1 or not suits(q):  # without dropout PyTorch keeps no scores
            return super().forward(q, k, v, bias)
        scores = q[:, 0] @ (k[:, 0] / math.sqrt(q.shape[-1])).mT  # (B, N, K)
        scores = scores if bias is None else scores + bias[:, 0]
        shares, growth = thinned_shares(scores, rate)
        return (shares @ (v[:, 0] * growth))[:, None]


class LeanCrossAttention(CrossAttention):
    """Attention to memory, whose weights are dropped: it sums memory tokens D wide and projects the sums, instead of
    projecting every token to C before. What is left of a query's weights does not sum to 1, so it is summed as well."""

    def read(self, x: Tensor, keys: Keys, rotation: Rotation, bias: Tensor | None) -> Tensor:
        rate = self.weigh.dropout.p if self.weigh.dropout.training else 0.0
        if not rate or self.heads != 1 or not suits(x):
            return super().read(x, keys, rotation, bias)
        inner, outer = self.v_proj, self.out_proj
        q = rotate(self.q_proj(x) / math.sqrt(inner.out_features), rotation, interleaved=self.interleaved)
        k = rotate(self.k_proj(keys.tokens + keys.pos), keys.rotation, interleaved=self.interleaved)
        scores = q @ k.mT  # (O, N, K)
        shares, growth = thinned_shares(scores if bias is None else scores + bias[:, None], rate)
        sums = shares @ F.pad(keys.tokens * growth, (0, 1), value=growth)  # (O, N, D + 1)
        weight = outer.weight @ torch.cat((inner.weight, inner.bias[:, None]), dim=1)  # (C, D + 1)
        return product(sums, weight, outer.bias)


class LeanMemoryBlock(MemoryBlock):
    """A block of memory attention; the feed-forward keeps its hidden layer once for the backward pass."""

    def _feed_forward(self, x: Tensor) -> Tensor:
        limit = _limit(self.dropout.p) if self.dropout.training else 0
        if not 0 < limit < STEPS or not suits(x):
            return super()._feed_forward(x)
        hidden = _ThinnedReLU.apply(self.ffn_in(x), limit)
        return product(hidden, self.ffn_out.weight * _growth(limit), self.ffn_out.bias)


LEAN: dict[type[nn.Module], Any] = {
    FPN: LeanFPN, MaskDecoder: LeanMaskDecoder, nn.Dropout: LeanDropout, WeightedSum: LeanWeightedSum,
    CrossAttention: LeanCrossAttention, Attention: FewTokensAttention, MemoryBlock: LeanMemoryBlock,
    RepVggDw: LeanRepVggDw,
}  # fmt: skip


def dropped(x: Tensor, rate: float) -> Tensor:
    """Dropout of x: `rate` of its numbers become 0, the others grow so that the mean stays. First derivatives only."""
    limit = _limit(rate)
    return _Dropped.apply(x, limit) if 0 < limit < STEPS else F.dropout(x, rate)


def thinned_shares(scores: Tensor, rate: float) -> tuple[Tensor, float]:
    """Softmax over the last dimension and dropout without the growth; and by how much to grow what the shares multiply."""
    limit = _limit(rate)
    if not 0 < limit < STEPS:
        return F.dropout(scores.softmax(dim=-1), rate), 1.0
    return _ThinnedSoftmax.apply(scores, limit), _growth(limit)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: int) -> Tensor:
        kept = _drawn(x.shape, limit).bool()
        ctx.save_for_backward(kept)
        ctx.growth = _growth(limit)
        return kept.float().mul_(ctx.growth).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.saved_tensors[0].float().mul_(ctx.growth).mul_(slope), None


class _ThinnedReLU(torch.autograd.Function):
    """ReLU and dropout without its growth: where the outcome is above 0, the slope passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: int) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        for some, into in zip(_strips(x), _strips(y)):
            torch.mul(some, _drawn(some.shape, limit), out=into).relu_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.ops.aten.threshold_backward(slope, ctx.saved_tensors[0], 0.0), None


class _ThinnedSoftmax(torch.autograd.Function):
    """Softmax and dropout without its growth. A share that is 0 was dropped, or has no slope anyway."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, limit: int) -> Tensor:
        scores = scores.contiguous()
        shares, left = torch.empty_like(scores), torch.empty_like(scores)
        for some, share, into in zip(_strips(scores), _strips(shares), _strips(left)):
            torch.softmax(some, dim=-1, out=share)
            torch.mul(share, _drawn(share.shape, limit), out=into)
        ctx.save_for_backward(shares, left)
        return left

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slope = slope.contiguous()
        answer = torch.empty_like(slope)
        for into, come, share, left in zip(*(_strips(x) for x in (answer, slope, *ctx.saved_tensors))):
            passed = torch.ne(left, 0, out=torch.empty_like(left)).mul_(come)
            torch.ops.aten._softmax_backward_data(passed, share, -1, share.dtype, grad_input=into)
        return answer, None


def _limit(rate: float) -> int:
    return round(rate * STEPS)


def _growth(limit: int) -> float:
    return STEPS / (STEPS - limit)


def _strips(x: Tensor) -> tuple[Tensor, ...]:
    """The rows (..., K) of x, some at a time: what is made of them stays in the cache."""
    return x.view(-1, x.shape[-1]).split(max(STRIP // x.shape[-1], 1))


def _drawn(shape: torch.Size, limit: int) -> Tensor:
    """1 where a number is kept, else 0: float."""
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count].float().ge_(limit - STEPS // 2).view(shape)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def _in_a_row(x: Tensor, inner: nn.Module, outer: nn.Module) -> Tensor:
    """Two 1x1 convolutions of x (B, C, H, W)."""
    assert isinstance(inner, nn.Conv2d)
    assert isinstance(outer, nn.Conv2d)
    assert inner.bias is not None
    first, second = inner.weight[:, :, 0, 0], outer.weight[:, :, 0, 0]
    return product(_rows(x), second @ first, F.linear(inner.bias, second, outer.bias)).permute(0, 3, 1, 2)


def _doubled(rows: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed 2x2 convolution of stride 2: rows (B, H, W, C) -> (B, 2H, 2W, C')."""
    assert layer.bias is not None
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (C, C', 2, 2) -> (2 2 C', C)
    pixels = product(rows, weight, layer.bias.repeat(4)).unflatten(-1, (2, 2, -1))  # (B, H, W, 2, 2, C')
    return pixels.transpose(2, 3).flatten(1, 2).flatten(2, 3)
