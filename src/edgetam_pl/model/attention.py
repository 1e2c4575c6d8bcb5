"""Attention with rotation tables, and its landmark forms (SAM 2; EfficientTAM).

Letters: B rows, N queries, K keys, C width, H heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.position import Rotation, rotate

LANDMARK_OFFSET = math.log(4)
"""A landmark stands for 2 x 2 keys, so its logit rises by ln 4 (EfficientTAM)."""


class WeightedSum(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v. While training, `dropout` of the weights are dropped.

    Without dropout no score matrix is ever written to memory.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)  # holds the rate, and knows whether it applies

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """q (B, H, N, d), k and v (B, H, K, d), bias broadcast to (B, H, N, K) -> (B, H, N, d)."""
        dropout = self.dropout.p if self.dropout.training else 0.0
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class Attention(nn.Module):
    """Attention with separate projections, optional rotation of queries and keys, optional bias over keys.

    Args:
        dim: width of queries and of the result.
        heads: heads; they divide `inner`.
        inner: width after projection.
        key_dim: width of keys and values before projection.
        dropout: dropped share of the attention weights, training only.
    """

    def __init__(self, dim: int, *, inner: int, key_dim: int, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.interleaved = True  # channel pairs are neighbours, as in the released weights; see `half_split`
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(key_dim, inner)
        self.v_proj = nn.Linear(key_dim, inner)
        self.out_proj = nn.Linear(inner, dim)
        self.weigh = WeightedSum(dropout)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        rotation: tuple[Rotation, Rotation] | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """q (1 or B, N, C), k and v (B, K, D) -> (B, N, C). Queries of one row are shared by all rows of keys.

        Args:
            rotation: tables of the queries and of the keys.
            bias: (1 or B, K), added to the logits of each key.
        """
        queries, keys, values = self._project(q, k, v, rotation)
        return self._merge(self.weigh(queries, keys, values, None if bias is None else bias[:, None, None, :]))

    @torch.no_grad()
    def half_split(self) -> None:
        """Pair channel j with j + C/2 instead of its neighbour. Same results: queries and keys are permuted alike."""
        if not self.interleaved:
            return
        width = self.q_proj.out_features // self.heads
        order = torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))
        order = (torch.arange(self.heads)[:, None] * width + order).flatten()
        for projection in (self.q_proj, self.k_proj):
            projection.weight.copy_(projection.weight[order])
            projection.bias.copy_(projection.bias[order])
        self.interleaved = False

    def _project(
        self, q: Tensor, k: Tensor, v: Tensor, rotation: tuple[Rotation, Rotation] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        if rotation is not None:
            queries = rotate(queries, rotation[0], interleaved=self.interleaved)
            keys = rotate(keys, rotation[1], interleaved=self.interleaved)
        return queries.expand(keys.shape[0], -1, -1, -1), keys, values

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, C) -> (B, H, N, C / H)

    def _merge(self, x: Tensor) -> Tensor:
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, H, N, C / H) -> (B, N, C)


class Keys(NamedTuple):
    """What memory attention attends to: memories first, pointer tokens last."""

    tokens: Tensor  # (O, K, D)
    pos: Tensor  # (O or 1, K, D), added to the keys but not to the values
    rotation: Rotation  # (K, C/2); identity rows for tokens without a place
    num_frames: int  # memories; a count of tokens would not tell it, pointers are among them


class CrossAttention(Attention):
    """Queries on the image attend to memory: every key is read."""

    def __init__(self, dim: int, *, key_dim: int, dropout: float = 0.0) -> None:
        super().__init__(dim, inner=dim, key_dim=key_dim, dropout=dropout)

    def read(self, x: Tensor, keys: Keys, rotation: Rotation, bias: Tensor | None) -> Tensor:
        """x (1 or O, N, C) -> (O, N, C). `bias` (1 or O, K) is added to the logits of each key."""
        return self(x, keys.tokens + keys.pos, keys.tokens, rotation=(rotation, keys.rotation), bias=bias)


class LandmarkAttention(CrossAttention):
    """Attention to 2 x 2 averages of the keys that lie on a grid, once there is more than one grid of them.

    Args:
        grid: (h, w) of each memory, which is the grid of the queries.
        offset_on_keys: ln 4 is added to every channel of a pooled key (EfficientTAM _2) instead of to its logits (_1).
            The two differ, and each has checkpoints of its own.
    """

    def __init__(self, dim: int, *, key_dim: int, grid: tuple[int, int], offset_on_keys: bool, dropout: float = 0.0) -> None:
        super().__init__(dim, key_dim=key_dim, dropout=dropout)
        self.grid = grid
        self.offset_on_keys = offset_on_keys

    def read(self, x: Tensor, keys: Keys, rotation: Rotation, bias: Tensor | None) -> Tensor:
        """As `CrossAttention.read`. Averages are taken after the rotation."""
        if keys.num_frames <= 1:
            return super().read(x, keys, rotation, bias)
        q, k, v = self._project(x, keys.tokens + keys.pos, keys.tokens, (rotation, keys.rotation))
        # average the keys of each memory; pointers, after the first `spatial` keys, stay as they are
        spatial = keys.num_frames * self.grid[0] * self.grid[1]
        landmarks = self._average(k[:, 0, :spatial], keys.num_frames)
        offset = LANDMARK_OFFSET
        if self.offset_on_keys:
            landmarks, offset = landmarks + LANDMARK_OFFSET, 0.0
        logits = F.pad(landmarks.new_full((1, landmarks.shape[1]), offset), (0, k.shape[2] - spatial))
        if bias is not None:  # a memory is masked as a whole, so the average of its biases is its bias
            masked = self._average(bias[:, :spatial, None], keys.num_frames)[..., 0]
            logits = logits + torch.cat((masked, bias[:, spatial:]), dim=1)
        # attend to averages and pointers
        k = torch.cat((landmarks[:, None], k[:, :, spatial:]), dim=2)
        v = torch.cat((self._average(v[:, 0, :spatial], keys.num_frames)[:, None], v[:, :, spatial:]), dim=2)
        needed = bias is not None or not self.offset_on_keys
        return self._merge(self.weigh(q, k, v, logits[:, None, None, :] if needed else None))

    def _average(self, x: Tensor, num_frames: int) -> Tensor:
        maps = x.unflatten(1, (num_frames, *self.grid)).flatten(0, 1).permute(0, 3, 1, 2)  # (O T, C, h, w)
        pooled = F.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)  # (O T, h w / 4, C)
        return pooled.reshape(x.shape[0], -1, x.shape[2])  # (O, T h w / 4, C)
