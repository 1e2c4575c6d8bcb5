"""D, the mask decoder: Eq. 3, O = D(F_M, F4, F8, P).

Letters: O objects, C width, T tokens, M candidate masks, (h, w) the grid of F16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.attention import Attention
from edgetam_pl.model.layers import MLP, LayerNorm2d

NUM_MASKS = 4
"""Mask 0 is the single answer; masks 1 to 3 are candidates for an ambiguous prompt (SAM)."""

STABLE_MARGIN, STABLE_SHARE = 0.05, 0.98
"""Mask 0 is stable when logits above the margin are this share of those above minus the margin (SAM 2 predictor)."""


class Candidates(NamedTuple):
    """Everything the decoder computes in one pass, before any choice."""

    logits: Tensor  # (O, 4, 4h, 4w)
    iou: Tensor  # (O, 4) in 0 ... 1
    presence: Tensor  # (O, 1) logit
    tokens: Tensor  # (O, 4, C), from which pointers are made


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image to the tokens; norms come after (SAM)."""

    def __init__(self, dim: int, *, heads: int, mlp: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, inner=dim, key_dim=dim, heads=heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, inner=dim // 2, key_dim=dim, heads=heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp, dim, depth=2)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, inner=dim // 2, key_dim=dim, heads=heads)

    def forward(
        self, tokens: Tensor, image: Tensor, start: Tensor, image_pos: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """tokens and start (O, T, C), image (O, hw, C), image_pos (hw, C), bias (O, T) or None -> tokens, image."""
        if self.first:  # no position and no residual: the tokens are replaced (SAM)
            tokens = self.self_attn(tokens, tokens, tokens, bias=bias)
        else:
            placed = tokens + start
            tokens = tokens + self.self_attn(placed, placed, tokens, bias=bias)
        tokens, placed = self.norm1(tokens), image + image_pos
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + start, placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(placed, tokens + start, tokens, bias=bias)
        return tokens, self.norm4(image)


class MaskDecoder(nn.Module):
    """Masks, their predicted IoU, presence and object pointers.

    Args:
        dim: C.
        heads: heads of all attentions; they divide C/2.
        mlp: hidden width of the transformer's MLP.
    """

    def __init__(self, dim: int, *, heads: int, mlp: int) -> None:
        super().__init__()
        self.presence_token = nn.Embedding(1, dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.blocks = nn.ModuleList(TwoWayBlock(dim, heads=heads, mlp=mlp, first=i == 0) for i in range(2))
        self.final_attention = Attention(dim, inner=dim // 2, key_dim=dim, heads=heads)
        self.final_norm = nn.LayerNorm(dim)
        self.upscale_f8 = nn.ConvTranspose2d(dim, dim // 4, 2, stride=2)
        self.upscale_norm = LayerNorm2d(dim // 4)
        self.upscale_f4 = nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2)
        self.mask_heads = nn.ModuleList(MLP(dim, dim, dim // 8, depth=3) for _ in range(NUM_MASKS))
        self.iou_head = MLP(dim, dim, NUM_MASKS, depth=3)
        self.presence_head = MLP(dim, dim, 1, depth=3)
        self.pointer_head = MLP(dim, dim, dim, depth=3)
        self.no_pointer = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=0.02))
        self.shrink = nn.Conv2d(1, 1, 4, stride=4)  # of a mask given as the answer, for its pointer

    def forward(
        self,
        image: Tensor,
        image_pos: Tensor,
        points: Tensor,
        mask: Tensor,
        *,
        f4: Tensor | None,
        f8: Tensor | None,
        bias: Tensor | None = None,
    ) -> Candidates:
        """One pass for O objects.

        Args:
            image: (1 or O, C, h, w).
            image_pos: (hw, C) Fourier positions.
            points: (O, P, C) prompt tokens.
            mask: (1 or O, C, h or 1, w or 1), added to the image.
            f4: (1 or O, C/8, 4h, 4w), or None (EfficientTAM).
            f8: (1 or O, C/4, 2h, 2w), or None.
            bias: (1 or O, P) added to the logits of prompt tokens; -1e4 hides a slot that a fixed-size program left empty.
        """
        num_objects, size = points.shape[0], image.shape[-2:]
        # the decoder's own tokens, then those of the prompts
        own = torch.cat((self.presence_token.weight, self.iou_token.weight, self.mask_tokens.weight))  # (6, C)
        start = torch.cat((own.expand(num_objects, -1, -1), points), dim=1)  # (O, 6 + P, C)
        if bias is not None:
            bias = F.pad(bias, (own.shape[0], 0))
        x = (image + mask).flatten(2).transpose(1, 2).expand(num_objects, -1, -1)  # (O, hw, C)
        # tokens and image exchange what they know
        tokens = start
        for block in self.blocks:
            tokens, x = block(tokens, x, start, image_pos, bias)
        tokens = self.final_norm(tokens + self.final_attention(tokens + start, x + image_pos, x))
        # one kernel per mask, applied to the upscaled image
        presence, iou, masks = tokens[:, 0], tokens[:, 1], tokens[:, 2 : 2 + NUM_MASKS]
        pixels = self._upscale(x.transpose(1, 2).unflatten(2, size), f4, f8)  # (O, C/8, 4h, 4w)
        kernels = torch.stack([head(masks[:, i]) for i, head in enumerate(self.mask_heads)], dim=1)  # (O, 4, C/8)
        return Candidates(self._logits(kernels, pixels), self.iou_head(iou).sigmoid(), self.presence_head(presence), masks)

    def point(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Pointers (O, C) from the tokens (O, C) of the chosen masks; absent objects get the learned no-pointer."""
        shown = visible.unsqueeze(1).to(tokens.dtype)
        return shown * self.pointer_head(tokens) + (1 - shown) * self.no_pointer

    def _logits(self, kernels: Tensor, pixels: Tensor) -> Tensor:
        """kernels (O, 4, C/8), pixels (O, C/8, 4h, 4w) -> (O, 4, 4h, 4w)."""
        return (kernels @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])

    def _upscale(self, x: Tensor, f4: Tensor | None, f8: Tensor | None) -> Tensor:
        x = self.upscale_f8(x)
        x = F.gelu(self.upscale_norm(x if f8 is None else x + f8))
        x = self.upscale_f4(x)
        return F.gelu(x if f4 is None else x + f4)


def most_stable(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Mask 0 and its IoU, or the best candidate where mask 0 is unstable: SAM 2's dynamic multimask.

    Args:
        logits: (O, 4, h, w).
        iou: (O, 4).

    Returns:
        (O, 1, h, w) and (O, 1).
    """
    single = logits[:, :1]
    inside = (single > STABLE_MARGIN).sum(dim=(2, 3))  # (O, 1)
    around = (single > -STABLE_MARGIN).sum(dim=(2, 3))
    stable = torch.where(around > 0, inside / around.clamp(min=1), 1.0) >= STABLE_SHARE
    rows = torch.arange(logits.shape[0], device=logits.device)
    best = iou[:, 1:].argmax(dim=1) + 1
    return (
        torch.where(stable[:, :, None, None], single, logits[rows, best].unsqueeze(1)),
        torch.where(stable, iou[:, :1], iou[rows, best].unsqueeze(1)),
    )
