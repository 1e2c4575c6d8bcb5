"""oneDNN's kernels for float32 on a CPU, where PyTorch chooses slower ones. For inference; same numbers up to rounding.

A 1x1 convolution of one image, a linear layer over many tokens, and the two products of attention are one and the same
matrix product. On AVX-512 machines oneDNN does it at about twice the speed of the BLAS that PyTorch takes for all three
(docs/interactive.md has figures). Tokens count as pixels of a map 64 wide, channels innermost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgetam_pl.model.attention import Attention, WeightedSum

WIDTH = 64
"""Width of the map that tokens are laid out in."""

MANY = 1024
"""From so many rows on the detour pays."""

ROWS = 512
"""Queries whose scores are held at a time: they stay in the cache."""


def use_onednn(model: nn.Module) -> bool:
    """Exchange layers of the model, in place; names in the state dict stay. False where oneDNN is missing."""
    if not torch.backends.mkldnn.is_available():
        return False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.kernel_size == child.stride == (1, 1) and child.groups == 1:
                setattr(parent, name, _sharing(OneDnnConv(child.in_channels, child.out_channels, 1, device="meta"), child))
            elif type(child) is nn.Linear:
                setattr(parent, name, _sharing(OneDnnLinear(child.in_features, child.out_features, device="meta"), child))
        if isinstance(parent, Attention) and parent.heads == 1 and type(parent.weigh) is WeightedSum:
            parent.weigh = OneDnnWeightedSum().eval()  # nothing is dropped in inference
    return True


class OneDnnConv(nn.Conv2d):
    """A 1x1 convolution."""

    def forward(self, input: Tensor) -> Tensor:
        return _product(input, self.weight, self.bias) if _suits(input) else super().forward(input)


class OneDnnLinear(nn.Linear):
    """A linear layer: a 1x1 convolution of tokens laid out as a map."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // input.shape[-1]
        if rows < MANY or rows % WIDTH or not _suits(input):
            return super().forward(input)
        return _over_tokens(input, self.weight, self.bias)


class OneDnnWeightedSum(WeightedSum):
    """Attention of one head without bias, in blocks of queries."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None or q.shape[1] != 1 or q.shape[2] < MANY or q.shape[2] % ROWS or q.device.type != "cpu":
            return super().forward(q, k, v, bias)
        answers = []
        # also under autocast: float32 here is faster than PyTorch's bfloat16, and nothing is rounded before the softmax
        for queries, keys, values in zip(q[:, 0].float(), k[:, 0].float() / math.sqrt(q.shape[-1]), v[:, 0].float().mT):
            blocks = (_over_tokens(block, keys).softmax(dim=-1) for block in queries.split(ROWS))
            answers.append(torch.cat([_over_tokens(shares, values) for shares in blocks]))  # (N, d)
        return torch.stack(answers).unsqueeze(1).to(q.dtype)  # (B, 1, N, d)


def _suits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _over_tokens(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., C) times weight (K, C), transposed -> (..., K)."""
    pixels = x.reshape(1, -1, WIDTH, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, rows / 64, 64), channels innermost
    return _product(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _product(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mkldnn_convolution(pixels, weight, bias, (0, 0), (1, 1), (1, 1), 1)


def _sharing(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new layer with the parameters and the mode of the old one."""
    for name in ("weight", "bias"):
        new.register_parameter(name, old.get_parameter(name) if name in dict(old.named_parameters()) else None)
    return new.train(old.training)
