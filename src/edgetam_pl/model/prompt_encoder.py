"""The prompt encoder: points, boxes and earlier masks become embeddings (SAM; the labels are those of `types`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetam_pl.model.layers import LayerNorm2d
from edgetam_pl.model.position import FourierPositions
from edgetam_pl.types import PADDING


class PromptEncoder(nn.Module):
    """Points become one token each, an earlier mask a map that is added to the image.

    Args:
        dim: C.
        image_size: S, in pixels.
        grid: (h, w) of the image features.
    """

    def __init__(self, dim: int, *, image_size: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.fourier = FourierPositions(dim, grid)
        self.labels = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))  # background, foreground, two box corners
        self.padding = nn.Embedding(1, dim)
        self.no_mask = nn.Embedding(1, dim)
        a, b = max(4, dim // 64), max(8, dim // 16)  # SAM: 4, 16
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, a, 2, stride=2), LayerNorm2d(a), nn.GELU(),
            nn.Conv2d(a, b, 2, stride=2), LayerNorm2d(b), nn.GELU(),
            nn.Conv2d(b, dim, 1),
        )  # fmt: skip

    @property
    def image_pos(self) -> Tensor:
        """Fourier positions (h w, C) of the image features."""
        return self.fourier.grid

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """points (O, P, 2) in pixels, labels (O, P) -> tokens (O, P + 1, C). A padding point is always appended (SAM)."""
        points = torch.cat((points.float(), points.new_zeros(points.shape[0], 1, 2, dtype=torch.float32)), dim=1)
        labels = torch.cat((labels, labels.new_full((labels.shape[0], 1), PADDING)), dim=1)
        where = self.fourier((points + 0.5) / self.image_size)  # pixel centres
        # sums over labels instead of indexing by them: programs for phones have fixed shapes
        tokens = where * (labels != PADDING).unsqueeze(2)
        for label, embedding in ((PADDING, self.padding), *enumerate(self.labels)):
            assert isinstance(embedding, nn.Embedding)
            tokens = tokens + (labels == label).unsqueeze(2) * embedding.weight
        return tokens

    def embed_nothing(self, num_objects: int) -> Tensor:
        """Tokens (O, 2, C) of objects without a prompt: SAM 2 passes one padding point, and appends one."""
        return self.padding.weight.expand(num_objects, 2, -1)

    def embed_mask(self, mask: Tensor | None) -> Tensor:
        """Logits (O, 1, S/4, S/4) -> map (O, C, h, w); None -> (1, C, 1, 1), the same everywhere."""
        if mask is None:
            return self.no_mask.weight.view(1, -1, 1, 1)
        return self.mask_downscaling(mask)
