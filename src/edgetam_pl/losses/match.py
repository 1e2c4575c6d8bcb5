"""A student's and a teacher's feature maps brought to one shape: resampled to one grid, if need be projected to one width.

Models look at the whole picture, each at its own size, so token (i, j) of an h x w grid covers the part of the picture from
(i / h, j / w) to ((i + 1) / h, (j + 1) / w). Maps are aligned by these places, not by the centres of their corner tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

RESAMPLE = ("bilinear", "area")
"""How the teacher's map comes to the student's grid."""

PROJECTION = ("none", "linear")
"""none: equal channels are needed, and nothing is learned (EdgeTAM). linear: a 1 x 1 convolution of the student's maps to
the teacher's channels, one for F16 and one for F_M, is trained with the student."""

LEVELS = ("f16", "f_m")
"""What is compared: F16 (L_img) and F_M (L_mem)."""


def resampled(features: Tensor, grid: tuple[int, int], kind: str = "bilinear") -> Tensor:
    """The map (N, C, h', w') on another grid (h, w) over the same picture: (N, C, h, w) float32; unchanged on its own grid.

    bilinear is antialiased where the grid gets coarser. area is the mean over the part of the picture that a token covers,
    shares of tokens included (PyTorch's own "area" takes whole ones, which moves what is seen by up to half a token).

    Raises:
        ValueError: the grids have other proportions, so they cannot cover the same picture; or no such kind.
    """
    (h, w), (rows, columns) = grid, (int(features.shape[-2]), int(features.shape[-1]))
    if kind not in RESAMPLE:
        raise ValueError(f"resample is {kind!r}; use one of {', '.join(RESAMPLE)}.")
    if (h, w) == (rows, columns):
        return features
    if h * columns != w * rows:
        raise ValueError(
            f"A map of {rows} x {columns} tokens cannot be aligned with one of {h} x {w}: their proportions differ, so they "
            "do not look at the same picture. Both models have to see the whole square picture, each at its own image_size."
        )
    if kind == "bilinear":
        return F.interpolate(features.float(), size=grid, mode="bilinear", align_corners=False, antialias=True)
    down, across = (torch.from_numpy(_shares(*sizes)).to(features.device) for sizes in ((rows, h), (columns, w)))
    return down @ features.float() @ across.mT


@lru_cache(maxsize=16)
def _shares(before: int, after: int) -> NDArray[np.float32]:
    """(after, before): which share of new token i each old token j is, by the length of picture that both cover."""
    edge = np.arange(max(before, after) + 1, dtype=np.float64)
    new, old = edge[: after + 1] / after, edge[: before + 1] / before
    overlap = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    return (overlap.clip(min=0) * after).astype(np.float32)


class FeatureMatch(nn.Module):
    """Makes maps comparable: the teacher's on the student's grid, the student's with the teacher's channels.

    Its parameters, if it has any, belong to the loss: they are trained and kept in training checkpoints, and are no part of
    the student.

    Args:
        resample: one of RESAMPLE.
        channels: for each of LEVELS, (the student's channels, the teacher's) of a projection; empty: there is none.
    """

    def __init__(self, *, resample: str = "bilinear", channels: Mapping[str, tuple[int, int]] | None = None) -> None:
        super().__init__()
        if resample not in RESAMPLE:
            raise ValueError(f"resample is {resample!r}; use one of {', '.join(RESAMPLE)}.")
        self.resample = resample
        self.projections = nn.ModuleDict(
            {level: nn.Conv2d(ours, theirs, 1) for level, (ours, theirs) in (channels or {}).items()}
        )
        for projection in self.projections.values():
            assert isinstance(projection, nn.Conv2d)
            assert projection.bias is not None
            if projection.in_channels == projection.out_channels:  # begins as no projection at all
                nn.init.dirac_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(self, student: Tensor, teacher: Tensor, level: str) -> tuple[Tensor, Tensor]:
        """(student (N, C', h, w), teacher (M, C', h, w)) in float32. The teacher's map gets no gradient.

        Args:
            student: (N, C, h, w).
            teacher: (M, C', h', w').
            level: one of LEVELS.

        Raises:
            ValueError: the channels differ and there is no projection, or the grids cannot be aligned.
        """
        student, teacher = student.float(), teacher.detach().float()
        if level in self.projections:
            student = self.projections[level](student)
        if student.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"The student's features are {tuple(student.shape[1:])}, the teacher's {tuple(teacher.shape[1:])} "
                "(C, h, w); distillation compares channels number by number. Give both models the same dim, or learn a "
                "projection with stage.projection=linear."
            )
        return student, resampled(teacher, (int(student.shape[-2]), int(student.shape[-1])), self.resample)
