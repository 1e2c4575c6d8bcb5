"""Positions as numbers: sine maps, Fourier features of points, and rotation tables (real arithmetic, identity rows).

Nothing here is learned, except that the Fourier matrix is drawn once and belongs to the checkpoint. Maps that depend on
sizes alone are made once, at construction, and kept as buffers by whoever uses them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

BASE = 10000.0
"""Wavelengths reach from 2 pi to 2 pi times this (SAM 2 release)."""


class Rotation(NamedTuple):
    """One planar rotation per token and channel pair. A row of cos 1, sin 0 leaves its token alone."""

    cos: Tensor  # (N, C/2) float32
    sin: Tensor  # (N, C/2) float32


def sine_map(height: int, width: int, dim: int) -> Tensor:
    """Sine positions (dim, height, width), float32, y channels first, then x (SAM 2 release: PositionEmbeddingSine).

    Counts from 1 and always reaches 2 pi at the far edge, so maps of different sizes span the same range.

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    _need_multiple_of_4("A sine map", dim)
    half = dim // 2
    divisor = _wavelengths(half)

    def axis(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32)
        phase = (steps / (steps[-1] + 1e-6) * 2 * math.pi)[:, None] / divisor  # (length, half)
        return torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1)  # (length, half)

    y = axis(height).T[:, :, None].expand(half, height, width)
    x = axis(width).T[:, None, :].expand(half, height, width)
    return torch.cat((y, x))


def sine_of_age(age: Tensor, dim: int) -> Tensor:
    """Sine code (P, dim) of signed ages (P,), sines first, then cosines (SAM 2.1: get_1d_sine_pe)."""
    phase = age[:, None] / _wavelengths(dim // 2).to(age.device)  # (P, dim / 2)
    return torch.cat((phase.sin(), phase.cos()), dim=1)


def rotation_table(grid: tuple[int, int], dim: int, *, non_spatial: int = 0, scale: float = 1.0) -> Rotation:
    """Axial rotations of the tokens of a grid, row by row, after `non_spatial` identity rows (SAM 2 release: axial RoPE).

    Channel pairs of the first half turn with x, those of the second half with y; coordinates are integers from 0. In
    EdgeTAM the keys lie on a coarser grid than the queries, and their integers are not rescaled (RoPEv2).

    Args:
        grid: (height, width); (0, 0) for identity rows alone.
        dim: channels per head, a multiple of 4.
        non_spatial: tokens without a place that come before those on the grid.
        scale: of the coordinates (SAM 3's global attention counts a large grid in smaller steps).
    """
    _need_multiple_of_4("A rotation table", dim)
    height, width = grid
    frequency = BASE ** (-torch.arange(0, dim, 4, dtype=torch.float32) / dim)  # (dim / 4,)
    index = torch.arange(height * width)
    x, y = (index % max(width, 1)).float(), (index // max(width, 1)).float()
    phase = torch.cat((x[:, None] * scale * frequency, y[:, None] * scale * frequency), dim=1)  # (h w, dim / 2)
    phase = torch.cat((torch.zeros(non_spatial, dim // 2), phase))
    return Rotation(phase.cos(), phase.sin())


def rotate(x: Tensor, rotation: Rotation, *, interleaved: bool = True) -> Tensor:
    """Rotate channel pairs of x (..., N, C), in float32; the result has x's dtype.

    Args:
        interleaved: pairs are neighbours (2j, 2j + 1), as in the released weights; otherwise (j, j + C/2), which needs no
            tensor of one more rank and is what exported programs use (the projections' rows are permuted to match).
    """
    if interleaved:
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((a * rotation.cos - b * rotation.sin, a * rotation.sin + b * rotation.cos), dim=-1).flatten(-2)
    else:
        a, b = x.float().chunk(2, dim=-1)
        turned = torch.cat((a * rotation.cos - b * rotation.sin, a * rotation.sin + b * rotation.cos), dim=-1)
    return turned.to(x.dtype)


class FourierPositions(nn.Module):
    """Random Fourier features of points of the unit square (SAM: PositionEmbeddingRandom).

    The matrix is drawn once and saved with the weights. `grid` holds the features of all pixel centres of the memory
    grid; it follows the matrix when weights are loaded.
    """

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.size = grid
        self.register_buffer("matrix", torch.randn(2, dim // 2))
        self.register_buffer("grid", self._grid(), persistent=False)
        self.register_load_state_dict_post_hook(_refresh)

    matrix: Tensor  # (2, C/2)
    grid: Tensor  # (h w, C)

    def forward(self, points: Tensor) -> Tensor:
        """Features (..., C) float32 of points (..., 2), (x, y) in 0 ... 1."""
        x, y = (2 * points.float() - 1).split(1, dim=-1)
        # sums of products, no matrix product: autocast leaves these in float32, and bfloat16 cannot tell pixels apart
        phase = 2 * math.pi * (x * self.matrix[0].float() + y * self.matrix[1].float())
        return torch.cat((phase.sin(), phase.cos()), dim=-1)

    @torch.no_grad()
    def _grid(self) -> Tensor:
        height, width = self.size
        y = (torch.arange(height, device=self.matrix.device) + 0.5) / height
        x = (torch.arange(width, device=self.matrix.device) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return self(torch.stack((columns, rows), dim=-1)).flatten(0, 1)  # (h w, C)


def _refresh(positions: FourierPositions, _: object) -> None:
    positions.grid = positions._grid()


def _wavelengths(dim: int) -> Tensor:
    """Divisors (dim,): each wavelength serves one sine and one cosine."""
    return BASE ** (2 * (torch.arange(dim, dtype=torch.float32) // 2) / dim)


def _need_multiple_of_4(what: str, dim: int) -> None:
    if dim % 4:
        raise ValueError(f"{what} of {dim} channels is impossible; the width must be a multiple of 4.")
