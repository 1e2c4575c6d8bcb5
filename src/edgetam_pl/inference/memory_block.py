"""A block of memory attention for a CPU, without gradients: equal values from fewer multiplications and fewer fresh pages.

What follows a weighted sum is linear, so projections change places with it: the output projection is folded into that of the
values, and the cross-attention sums memory tokens as they are, D wide, and projects the sums, C wide. Scores and the hidden
layer of the feed-forward are made for some queries at a time, so that they stay in the cache.

Letters: N queries, K keys, C width, D width of a memory token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetam_pl.inference.products import faster_library, onednn_product
from edgetam_pl.model.attention import Attention, CrossAttention, Keys
from edgetam_pl.model.memory_attention import MemoryBlock
from edgetam_pl.model.position import Rotation, rotate

QUERIES = {"blas": 128, "onednn": 512}
"""Queries whose scores are held at a time; oneDNN packs the keys anew each time."""

HIDDEN_ROWS = 512
"""Rows of the feed-forward's hidden layer that are held at a time."""


def use_lean_blocks(model: nn.Module) -> None:
    """Exchange the blocks of memory attention that attend to every key, in place. For inference on a CPU only."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MemoryBlock) and type(child.cross_attention) is CrossAttention:
                setattr(parent, name, LeanBlock(child).eval())


class LeanBlock(nn.Module):
    """As the `MemoryBlock` it is made of, which it asks where it does not apply: hidden keys, autocast, a compiler."""

    def __init__(self, block: MemoryBlock) -> None:
        super().__init__()
        self.block = block
        own, cross = block.self_attention, block.cross_attention
        assert isinstance(own, Attention)
        assert isinstance(cross, Attention)
        scale = 1 / math.sqrt(own.q_proj.out_features)
        # queries and keys of the image in one product; the scale of the scores goes on the queries
        self._keep("own", torch.cat((own.q_proj.weight * scale, own.k_proj.weight)), _joined(own, scale))
        self._keep("own_value", *_value_to_output(own))
        self._keep("query", cross.q_proj.weight * scale, cross.q_proj.bias * scale)
        self._keep("cross_value", *_value_to_output(cross))

    def forward(self, x: Tensor, keys: Keys, rotation: Rotation, bias: Tensor | None) -> Tensor:
        """x (1 or O, N, C) -> (O, N, C)."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if bias is not None or not plain or torch.compiler.is_compiling():
            return self.block(x, keys, rotation, bias)
        shared = [self._self(row, rotation) for row in x]  # an image shared by all objects stays one row
        rows = keys.tokens.shape[0]
        places = keys.pos.expand(rows, -1, -1)
        answers = [
            self._cross(shared[row % len(shared)], keys.tokens[row], places[row], rotation, keys.rotation)
            for row in range(rows)
        ]
        return torch.stack(answers)

    def _self(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x (N, C) sees itself."""
        block = self.block
        y = block.norm1(x)
        q, k = (self._rotated(half, rotation) for half in self._product("own", y).chunk(2, dim=1))
        return weighted_sum(q, k, self._product("own_value", y)).add_(x)

    def _cross(self, x: Tensor, tokens: Tensor, pos: Tensor, rotation: Rotation, key_rotation: Rotation) -> Tensor:
        """x (N, C) sees the memory, tokens and pos (K, D); then the feed-forward."""
        block = self.block
        q = self._rotated(self._product("query", block.norm2(x)), rotation)
        projection = block.cross_attention.k_proj
        k = self._rotated(_product(tokens + pos, projection.weight, projection.bias), key_rotation)
        x = self._product("cross_value", weighted_sum(q, k, tokens)).add_(x)
        return self._feed_forward(block.norm3(x)).add_(x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner, outer = self.block.ffn_in, self.block.ffn_out
        answers = []
        for rows in x.split(HIDDEN_ROWS):
            hidden = F.relu(_product(rows, inner.weight, inner.bias), inplace=True)
            answers.append(_product(hidden, outer.weight, outer.bias))
        return torch.cat(answers)

    def _rotated(self, x: Tensor, rotation: Rotation) -> Tensor:
        return rotate(x, rotation, interleaved=self.block.self_attention.interleaved)

    def _product(self, name: str, x: Tensor) -> Tensor:
        return _product(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"))

    def _keep(self, name: str, weight: Tensor, bias: Tensor) -> None:
        self.register_buffer(f"{name}_weight", weight.detach().contiguous(), persistent=False)
        self.register_buffer(f"{name}_bias", bias.detach(), persistent=False)


def weighted_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v without gradients: q (N, C), scaled, k (K, C), v (K, D) -> (N, D)."""
    faster = faster_library()
    if faster == "onednn":
        across = v.T
        blocks = q.split(QUERIES[faster])
        return torch.cat([onednn_product(onednn_product(block, k).softmax(dim=-1), across) for block in blocks])
    answer = q.new_empty(len(q), v.shape[1])
    scores, shares = (q.new_empty(QUERIES[faster], len(k)) for _ in range(2))
    for block, into in zip(q.split(QUERIES[faster]), answer.split(QUERIES[faster])):
        torch.mm(block, k.T, out=scores[: len(block)])
        torch.softmax(scores[: len(block)], dim=-1, out=shares[: len(block)])
        torch.mm(shares[: len(block)], v, out=into)
    return answer


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return onednn_product(x, weight, bias) if faster_library() == "onednn" else F.linear(x, weight, bias)


def _joined(own: Attention, scale: float) -> Tensor:
    return torch.cat((own.q_proj.bias * scale, own.k_proj.bias))


def _value_to_output(attention: Attention) -> tuple[Tensor, Tensor]:
    """Weight and bias of the value's projection and the output's, one after the other: the shares of a query sum to 1."""
    inner, outer = attention.v_proj, attention.out_proj
    weight = outer.weight.double() @ inner.weight.double()
    bias = outer.weight.double() @ inner.bias.double() + outer.bias.double()
    return weight.to(inner.weight), bias.to(inner.bias)
