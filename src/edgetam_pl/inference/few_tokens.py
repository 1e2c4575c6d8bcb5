"""Attention between an image of many pixels and few tokens on a CPU: the tokens' side is projected, never the image's.

A score is (W_q t)·(W_k x) = (W_k^T W_q t)·x, so the keys' projection is applied to the T tokens of each head instead of to
the N pixels; likewise the values' projection follows the weighted sum, and where pixels ask and tokens answer, the queries'
and the output's projections move to the tokens. With T H below the inner width that is fewer multiplications, all heads are
one product of matrices, and rows never change their order. Equal up to rounding; first derivatives only.

Letters: O rows, T tokens, N pixels, C width, H heads, I inner width, d = I / H.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edgetam_pl.inference.onednn import suits
from edgetam_pl.model.attention import Attention
from edgetam_pl.model.position import Rotation

MANY = 256
"""From so many pixels on."""


class FewTokensAttention(Attention):
    """As `Attention`, which computes whatever is not an attention between few tokens and many pixels."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        rotation: tuple[Rotation, Rotation] | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """As `Attention.forward`."""
        few, many = sorted((q.shape[1], k.shape[1]))
        drops = self.weigh.dropout.training and self.weigh.dropout.p > 0
        plain = rotation is None and bias is None and not drops and len(q) == len(k)
        if not plain or many < MANY or few * self.heads > self.q_proj.out_features or not suits(q):
            return super().forward(q, k, v, rotation=rotation, bias=bias)
        scale = math.sqrt(self.q_proj.out_features // self.heads)
        return self._asked_by_tokens(q, k, v, scale) if few == q.shape[1] else self._asked_by_pixels(q, k, v, scale)

    def _asked_by_tokens(self, tokens: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """tokens (O, T, C), keys and values (O, N, C) -> (O, T, C)."""
        # a bias of the keys raises all scores of a query alike: no effect, and a gradient of zero
        queries = self._heads(self.q_proj(tokens) / scale + 0 * self.k_proj.bias)  # (H, O T, d)
        asked = self._of_rows(queries @ self._by_head(self.k_proj), len(tokens))  # (O, H T, C)
        sums = _Scores.apply(asked, keys).softmax(dim=-1) @ values  # (O, H T, C)
        answers = self._of_heads(sums) @ self._by_head(self.v_proj).mT  # (H, O T, d)
        merged = answers.unflatten(1, (len(tokens), -1)).permute(1, 2, 0, 3).flatten(2)  # (O, T, I)
        return self.out_proj(merged + self.v_proj.bias)  # the shares of a query sum to 1

    def _asked_by_pixels(self, pixels: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """pixels (O, N, C), keys and values (O, T, C) -> (O, N, C)."""
        rows = len(keys)
        held = self._heads(self.k_proj(keys) / scale)  # (H, O T, d)
        asked = self._of_rows(held @ self._by_head(self.q_proj), rows)  # (O, H T, C)
        offset = self._of_rows(held @ self.q_proj.bias.view(self.heads, -1, 1), rows)  # (O, H T, 1)
        scores = _Scores.apply(asked, pixels).add_(offset)  # (O, H T, N)
        shares = scores.unflatten(1, (self.heads, -1)).softmax(dim=2).flatten(1, 2)
        outer = self.out_proj.weight.T.unflatten(0, (self.heads, -1))  # (H, d, C)
        spread = self._of_rows(self._heads(self.v_proj(values)) @ outer, rows)  # (O, H T, C)
        return _Answers.apply(shares, spread).add_(self.out_proj.bias)  # (O, N, C)

    def _by_head(self, layer: nn.Linear) -> Tensor:
        return layer.weight.unflatten(0, (self.heads, -1))  # (I, C) -> (H, d, C)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).permute(2, 0, 1, 3).flatten(1, 2)  # (O, T, I) -> (H, O T, d)

    def _of_rows(self, x: Tensor, rows: int) -> Tensor:
        return x.unflatten(1, (rows, -1)).transpose(0, 1).flatten(1, 2)  # (H, O T, C) -> (O, H T, C)

    def _of_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.heads, -1)).transpose(0, 1).flatten(1, 2)  # (O, H T, C) -> (H, O T, C)


class _Scores(torch.autograd.Function):
    """asked (O, K, C) and pixels (O, N, C) -> (O, K, N). PyTorch's own gradient of the pixels would lie column by column,
    and sums with other gradients would take several times as long."""

    @staticmethod
    def forward(ctx: Any, asked: Tensor, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(asked, pixels)
        return asked @ pixels.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        asked, pixels = ctx.saved_tensors
        return slope @ pixels, slope.mT @ asked


class _Answers(torch.autograd.Function):
    """shares (O, K, N) and spread (O, K, C) -> (O, N, C); the gradient of the shares lies in their own order."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor, spread: Tensor) -> Tensor:
        ctx.save_for_backward(shares, spread)
        return shares.mT @ spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        shares, spread = ctx.saved_tensors
        return spread @ slope.mT, shares @ slope
