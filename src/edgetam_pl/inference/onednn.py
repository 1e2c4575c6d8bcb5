"""oneDNN's matrix product for float32 on a CPU, where PyTorch takes its BLAS. Same numbers up to rounding.

A linear layer, a 1x1 convolution with channels innermost, their gradients, and the two products of attention are one and the
same product. Where the BLAS was measured to be faster (`products.faster_library`), it makes all of them; a 1x1 convolution
is a product all the same, which PyTorch would not see.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edgetam_pl.inference.products import faster_library, onednn_product
from edgetam_pl.model.attention import Attention, WeightedSum

WORTH = 2**20
"""Multiplications from which on oneDNN is faster, its start included."""

NARROW = 64
"""Sums over many rows for a matrix with a side below this (the gradient of a narrow layer's weight) are left to the BLAS."""

MANY = 1024
"""From so many queries on, attention in two products is faster than PyTorch's kernel."""

ROWS = 512
"""Queries whose scores are held at a time: they stay in the cache."""


def use_onednn(model: nn.Module, *, trained: bool = False) -> bool:
    """Exchange layers of the model, in place; names in the state dict stay. False where oneDNN is missing.

    Args:
        trained: gradients are wanted. Attention is left alone then: PyTorch's kernel keeps no scores for the backward pass.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch, "mkldnn_convolution"):
        return False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.kernel_size == child.stride == (1, 1) and child.groups == 1:
                setattr(parent, name, _sharing(OneDnnConv(child.in_channels, child.out_channels, 1, device="meta"), child))
            elif type(child) is nn.Linear:
                setattr(parent, name, _sharing(OneDnnLinear(child.in_features, child.out_features, device="meta"), child))
        if not trained and isinstance(parent, Attention) and parent.heads == 1 and type(parent.weigh) is WeightedSum:
            parent.weigh = OneDnnWeightedSum().eval()  # nothing is dropped in inference
    return True


class OneDnnConv(nn.Conv2d):
    """A 1x1 convolution."""

    def forward(self, input: Tensor) -> Tensor:
        if not suits(input):
            return super().forward(input)
        pixels = input.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        if not pixels.is_contiguous():  # a copy would cost what the product saves
            return super().forward(input) if faster_library() == "blas" else _convolution(input, self.weight, self.bias)
        return product(pixels, self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class OneDnnLinear(nn.Linear):
    """A linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias) if suits(input) else super().forward(input)


class OneDnnWeightedSum(WeightedSum):
    """Attention of one head without bias, in blocks of queries."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None or q.shape[1] != 1 or q.shape[2] < MANY or q.device.type != "cpu":
            return super().forward(q, k, v, bias)
        weighted = []
        # also under autocast: float32 here is faster than PyTorch's bfloat16, and nothing is rounded before the softmax
        for queries, keys, values in zip(q[:, 0].float(), k[:, 0].float() / math.sqrt(q.shape[-1]), v[:, 0].float().mT):
            blocks = (product(block, keys).softmax(dim=-1) for block in queries.split(ROWS))
            weighted.append(torch.cat([product(shares, values) for shares in blocks]))  # (N, d)
        return torch.stack(weighted).unsqueeze(1).to(q.dtype)  # (B, 1, N, d)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., C) times weight (K, C), transposed, plus bias (K,) -> (..., K). First derivatives only."""
    # autocast would round what F.linear is given
    if x.numel() * weight.shape[0] < WORTH or (faster_library() == "blas" and not torch.is_autocast_enabled("cpu")):
        return F.linear(x, weight, bias)
    return _Product.apply(x, weight, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)  # x as it came: a copy in rows would be kept as well
        return onednn_product(_rows(x), weight, bias).unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        slopes = _rows(slope)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            onednn_product(slopes, weight.T).unflatten(0, x.shape[:-1]) if for_x else None,
            _gathered(slopes, _rows(x)) if for_weight else None,
            slopes.sum(dim=0) if for_bias else None,
        )


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])  # (..., C) -> (N, C)


def _convolution(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """1x1 convolution: pixels (B, C, H, W), weight (K, C, 1, 1) -> (B, K, H, W)."""
    return torch.mkldnn_convolution(pixels, weight, bias, (0, 0), (1, 1), (1, 1), 1)


def _gathered(slope: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight: slope (N, K) and x (N, C) -> (K, C)."""
    return slope.T @ x if min(slope.shape[1], x.shape[1]) < NARROW else onednn_product(slope.T, x.T)


def suits(x: Tensor) -> bool:
    """May layers of this room compute x? Elsewhere, under autocast, and where a converter looks, PyTorch's do."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False  # a converter, or a compiler, is to see the layer itself
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _sharing(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new layer with the parameters and the mode of the old one."""
    for name in ("weight", "bias"):
        new.register_parameter(name, old.get_parameter(name) if name in dict(old.named_parameters()) else None)
    return new.train(old.training)
