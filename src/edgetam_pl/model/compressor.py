"""Compressors of memory, M -> (tokens, positions): EdgeTAM Sec. 3.2, Eq. 5 and 6, and what Tab. 3a compares it with.

All have one signature. The last h*w tokens lie on `grid`; the ones before have no place and no position.
Letters: O objects, N tokens, D memory width, Z latents, W windows.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.attention import WeightedSum
from edgetam_pl.model.position import sine_map


class Compressor(nn.Module):
    """What all compressors share: how many tokens they make, on which grid, with which positions.

    Args:
        dim: D.
        grid: (h, w) of the tokens that have a place; (0, 0) for none.
        non_spatial: tokens before them.
    """

    def __init__(self, dim: int, *, grid: tuple[int, int], non_spatial: int = 0) -> None:
        super().__init__()
        self.grid = grid
        self.non_spatial = non_spatial
        placed = sine_map(*grid, dim).flatten(1).T if grid[0] else torch.zeros(0, dim)  # (h w, D)
        self.register_buffer("pos", torch.cat((torch.zeros(non_spatial, dim), placed))[None], persistent=False)

    pos: Tensor  # (1, N, D)

    def forward(self, memory: Tensor) -> Tensor:
        """memory (O, D, H, W) -> tokens (O, N, D)."""
        raise NotImplementedError


class Dense(Compressor):
    """No compression: a token per position (SAM 2)."""

    def forward(self, memory: Tensor) -> Tensor:
        return memory.flatten(2).transpose(1, 2)  # (O, D, H, W) -> (O, HW, D)


class Pooling(Compressor):
    """Averages of pool x pool positions (Tab. 3a's plain alternative)."""

    def __init__(self, dim: int, *, memory_grid: tuple[int, int], pool: int) -> None:
        super().__init__(dim, grid=(memory_grid[0] // pool, memory_grid[1] // pool))
        self.pool = pool

    def forward(self, memory: Tensor) -> Tensor:
        return F.avg_pool2d(memory, self.pool).flatten(2).transpose(1, 2)  # (O, D, H, W) -> (O, N, D)


class LatentAttention(nn.Module):
    """Latents attend to the frame: Eq. 5's attention, pre-norm, one head, no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_x = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.weigh = WeightedSum()

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (O, HW, D) -> k, v (O, HW, D); both branches share them."""
        k, v = self.to_kv(self.norm_x(x)).chunk(2, dim=-1)
        return k, v

    def forward(self, z: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """z (O, Z, D), k and v (O, N, D) -> (O, Z, D)."""
        q = self.to_q(self.norm_latents(z))
        return self.to_out(self.weigh(q[:, None], k[:, None], v[:, None])[:, 0])


class LatentSelfAttention(nn.Module):
    """Latents attend to one another (Tab. 3d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.weigh = WeightedSum()

    def forward(self, z: Tensor) -> Tensor:
        """z (O, Z, D) -> (O, Z, D)."""
        z = self.norm(z)
        k, v = self.to_kv(z).chunk(2, dim=-1)
        return self.to_out(self.weigh(self.to_q(z)[:, None], k[:, None], v[:, None])[:, 0])


class PerceiverLayer(nn.Module):
    """Attention to the frame, feed-forward, then self-attention among latents and another feed-forward."""

    def __init__(self, dim: int, *, self_attention: bool) -> None:
        super().__init__()
        self.attention = LatentAttention(dim)
        self.ffn = _feed_forward(dim)
        self.self_attention = LatentSelfAttention(dim) if self_attention else None
        self.self_ffn = _feed_forward(dim) if self_attention else None

    def forward(self, z: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """z (O, Z, D) sees k and v (O, N, D)."""
        z = z + self.attention(z, k, v)
        return z + self.ffn(z)

    def communicate(self, z: Tensor) -> Tensor:
        """z (O, Z, D): latents of one row see one another. Nothing happens where self-attention is off."""
        if self.self_attention is None or self.self_ffn is None:
            return z
        z = z + self.self_attention(z)
        return z + self.self_ffn(z)


class Perceiver2D(Compressor):
    """The 2D spatial perceiver: global latents see the whole frame, each spatial latent one window of it.

    Both branches share all layers. In the released weights the spatial latents' self-attention ran on sequences of
    length one, so they learnt nothing from one another; `across=True` is what the paper describes (Sec. 4.6).

    Args:
        dim: D.
        memory_grid: (H, W) of the memory, a square.
        num_global: N_g, global latents; 0 for none.
        num_spatial: N_l, spatial latents; 0, or a square whose root divides H.
        depth: layers.
        self_attention: latents attend to one another (Tab. 3d).
        across: spatial latents attend to one another instead of to themselves.
    """

    def __init__(
        self,
        dim: int,
        *,
        memory_grid: tuple[int, int],
        num_global: int,
        num_spatial: int,
        depth: int,
        self_attention: bool,
        across: bool,
    ) -> None:
        side = round(num_spatial**0.5)
        super().__init__(dim, grid=(side, side), non_spatial=num_global)
        self.across = across
        self.global_latents = nn.Parameter(torch.randn(num_global, dim)) if num_global else None
        self.spatial_latents = nn.Parameter(torch.randn(num_spatial, dim)) if num_spatial else None
        self.layers = nn.ModuleList(PerceiverLayer(dim, self_attention=self_attention) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        # the global branch's keys and values carry the position (after projection); its tokens do not
        memory_pos = sine_map(*memory_grid, dim).flatten(1).T.contiguous()
        self.register_buffer("memory_pos", memory_pos, persistent=False)

    memory_pos: Tensor  # (H W, D)

    def forward(self, memory: Tensor) -> Tensor:
        """memory (O, D, H, W) -> tokens (O, N_g + N_l, D), global ones first."""
        size = memory.shape[-2:]
        x = memory.flatten(2).transpose(1, 2)  # (O, HW, D)
        pairs = [layer.attention.keys_and_values(x) for layer in self._stack]
        tokens = []
        if self.global_latents is not None:
            tokens.append(self._global(self.global_latents, pairs))
        if self.spatial_latents is not None:
            tokens.append(self._spatial(self.spatial_latents, pairs, size))
        return self.norm(torch.cat(tokens, dim=1))

    @property
    def _stack(self) -> list[PerceiverLayer]:
        return cast(list[PerceiverLayer], list(self.layers))

    def _global(self, latents: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Eq. 5: G = Z_g attending to the frame. (O, N_g, D)."""
        z = latents.expand(pairs[0][0].shape[0], -1, -1)
        for layer, (k, v) in zip(self._stack, pairs, strict=True):
            z = layer.communicate(layer(z, k + self.memory_pos, v + self.memory_pos))
        return z

    def _spatial(self, latents: Tensor, pairs: list[tuple[Tensor, Tensor]], size: torch.Size) -> Tensor:
        """Eq. 6: L = each of Z_l attending to its window. (O, N_l, D), row by row."""
        num_objects, num_latents = pairs[0][0].shape[0], latents.shape[0]
        z = latents.expand(num_objects, -1, -1).reshape(-1, 1, latents.shape[1])  # (O N_l, 1, D)
        for layer, (k, v) in zip(self._stack, pairs, strict=True):
            z = layer(z, self._windows(k, size), self._windows(v, size))
            if self.across:
                z = layer.communicate(z.view(num_objects, num_latents, -1)).reshape(z.shape)
            else:
                z = layer.communicate(z)
        return z.view(num_objects, num_latents, -1)

    def _windows(self, x: Tensor, size: torch.Size) -> Tensor:
        """x (O, HW, D) -> (O N_l, tokens of a window, D)."""
        (rows, columns), dim = self.grid, x.shape[-1]
        height, width = size[0] // rows, size[1] // columns
        # objects and rows of windows share a dimension, as do columns and channels: Core ML takes at most four
        x = x.reshape(-1, height, columns, width * dim).transpose(1, 2)  # (O n, n, y, x D)
        return x.reshape(-1, height * width, dim)


def _feed_forward(dim: int) -> nn.Sequential:
    """Four times as wide inside, no biases (released perceiver)."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 4 * dim, bias=False), nn.GELU(), nn.Linear(4 * dim, dim, bias=False)
    )
