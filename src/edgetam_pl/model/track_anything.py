"""SAM 2, EdgeTAM, EfficientTAM, and every ablation between them: six parts, four methods (Eq. 1 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgetam_pl.model.compressor import Compressor
from edgetam_pl.model.image_encoder import ImageEncoder
from edgetam_pl.model.mask_decoder import MaskDecoder, most_stable
from edgetam_pl.model.memory_attention import MemoryAttention
from edgetam_pl.model.memory_encoder import MemoryEncoder, as_evidence
from edgetam_pl.model.prompt_encoder import PromptEncoder
from edgetam_pl.types import ABSENT_LOGIT, GIVEN_LOGIT, Decoded, ImageFeatures, Memory, Prompts, Recall

PIXELS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
"""Mean and standard deviation of RGB in 0 ... 1: ImageNet's (SAM 2), or what makes -1 ... 1 of it (SAM 3)."""


class TrackAnything(nn.Module):
    """Tracks whatever it is shown. Holds weights and nothing of the past: memory goes in and comes out.

    Args:
        image_size: S, side of the square input in pixels.
        pixels: how they are normalised, a key of PIXELS.
    """

    def __init__(
        self,
        *,
        image_size: int,
        image_encoder: ImageEncoder,
        memory_attention: MemoryAttention,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        memory_encoder: MemoryEncoder,
        compressor: Compressor,
        pixels: str = "imagenet",
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.fused = False  # see `fuse`; such a model cannot be saved or trained
        self.image_encoder = image_encoder
        self.memory_attention = memory_attention
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.memory_encoder = memory_encoder
        self.compressor = compressor
        mean, std = PIXELS[pixels]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of F16 and F_M."""
        return self.prompt_encoder.fourier.size

    @property
    def dim(self) -> int:
        """C, channels of F16 and F_M."""
        return self.memory_attention.dim

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 RGB (..., 3, S, S) -> float32 (..., 3, S, S), as `encode` wants it."""
        return (frames.float() / 255 - self.mean) / self.std

    def encode(self, images: Tensor) -> ImageFeatures:
        """Eq. 1: F4, F8, F16 = E_img(I). images (B, 3, S, S) float, normalised.

        Raises:
            ValueError: the images are not S x S.
        """
        if images.shape[-3:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"Images are {tuple(images.shape)}; this model takes (B, 3, {self.image_size}, {self.image_size}). "
                "Resize them, or build the model with another image_size."
            )
        return self.image_encoder(images)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """Eq. 2: F_M = A(F16, M_1 ... M_T). f16 (1 or O, C, h, w) -> (O, C, h, w); see `MemoryAttention`."""
        return self.memory_attention(f16, recall)

    def decode(
        self,
        f_m: Tensor,
        features: ImageFeatures,
        prompts: Prompts | None,
        *,
        gate: bool = True,
        dynamic_multimask: bool = False,
    ) -> Decoded:
        """Eq. 3: O = D(F_M, F4, F8, P).

        A mask among the prompts is the answer itself; only its pointer is computed, from features without memory.
        Otherwise: three candidates without a prompt or after a single click, else one mask.

        Args:
            f_m: (1 or O, C, h, w) features that remember.
            features: of the frame; one row, shared by all objects, or one per object.
            prompts: of O objects, or None when the frame is only tracked.
            gate: absent objects have no mask and no pointer; False in image mode (SAM 2's image predictor).
            dynamic_multimask: replace an unstable single mask by the best candidate (SAM 2's predictor).
        """
        if prompts is not None and prompts.mask is not None:
            return self._adopt(features, prompts, prompts.mask)
        multiple = prompts is None or prompts.num_points <= 1
        num_objects = self._count(f_m, features, prompts)
        points = None if prompts is None else prompts.points
        if points is None or prompts is None or prompts.labels is None:
            tokens = self.prompt_encoder.embed_nothing(num_objects)
        else:
            tokens = self.prompt_encoder.embed_points(points, prompts.labels)
        dense = self.prompt_encoder.embed_mask(None if prompts is None else prompts.previous)
        # all candidates, of which three or one are offered
        found = self.mask_decoder(f_m, self.prompt_encoder.image_pos, tokens, dense, f4=features.f4, f8=features.f8)
        if multiple:
            logits, iou, choices = found.logits[:, 1:], found.iou[:, 1:], found.tokens[:, 1:]
            rows = torch.arange(num_objects, device=iou.device)
            chosen = choices[rows, iou.argmax(dim=1)]  # (O, C)
        else:
            logits, iou, chosen = found.logits[:, :1], found.iou[:, :1], found.tokens[:, 0]
            if dynamic_multimask:  # changes the mask but never the pointer (SAM 2 release)
                logits, iou = most_stable(found.logits, found.iou)
        visible = found.presence[:, 0] > 0
        if gate:
            logits = torch.where(visible.view(-1, 1, 1, 1), logits, ABSENT_LOGIT)
        pointer = self.mask_decoder.point(chosen, visible if gate else torch.ones_like(visible))
        return Decoded(logits, iou, found.presence, pointer, prompts)

    def memorize(self, f16: Tensor, decoded: Decoded, *, binarize: bool = False) -> Memory:
        """Eq. 4 to 6: M = compress(E_mem(F16, O)). f16 (1 or O, C, h, w), without memory.

        Args:
            binarize: count every pixel of the mask fully (SAM 2's predictor, on frames that were clicked).
        """
        if decoded.prompts is not None and decoded.prompts.mask is not None:
            logits = _as_logits(decoded.prompts.mask)  # in full resolution
        else:
            logits = decoded.best
        side = 16 * self.grid[0]  # four halvings; the image's own size where features have stride 16
        evidence = as_evidence(logits, size=self.image_size, binarize=binarize, side=side)
        tokens = self.compressor(self.memory_encoder(f16, evidence, decoded.visible))
        return Memory(tokens, self.compressor.pos, decoded.pointer, self.compressor.grid)

    def _adopt(self, features: ImageFeatures, prompts: Prompts, mask: Tensor) -> Decoded:
        """The given mask (O, 1, S, S) as the answer (SAM 2 release: _use_mask_as_output)."""
        given = mask.float()
        low = [4 * length for length in self.grid]
        logits = F.interpolate(
            _as_logits(mask), low, mode="bilinear", align_corners=False, antialias=True
        )  # (O, 1, S/4, S/4)
        present = given.flatten(1).any(dim=1)  # (O,)
        found = self.mask_decoder(
            features.f16,
            self.prompt_encoder.image_pos,
            self.prompt_encoder.embed_nothing(mask.shape[0]),
            self.prompt_encoder.embed_mask(self.mask_decoder.shrink(given)),
            f4=features.f4,
            f8=features.f8,
        )
        visible = present & (found.presence[:, 0] > 0)  # the decoder's own verdict counts for the pointer
        presence = torch.where(present, GIVEN_LOGIT, -GIVEN_LOGIT).unsqueeze(1)
        pointer = self.mask_decoder.point(found.tokens[:, 0], visible)
        return Decoded(logits, torch.ones_like(presence), presence, pointer, prompts)

    @staticmethod
    def _count(f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> int:
        given = () if prompts is None else (prompts.points, prompts.previous)
        return max(f_m.shape[0], features.f16.shape[0], *(x.shape[0] for x in given if x is not None), 1)


def _as_logits(mask: Tensor) -> Tensor:
    """A mask given as the answer, as logits of plus or minus GIVEN_LOGIT."""
    return torch.where(mask > 0, GIVEN_LOGIT, -GIVEN_LOGIT)
