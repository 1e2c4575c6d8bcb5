"""The nouns that cross module boundaries: a type for each, never a dict.

Letters, the same in every file: B videos, T frames, O objects, N tokens, M candidate masks, P points,
S the square input side in pixels, C the model width (256 in the paper), D the memory width (64 in the paper).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

ABSENT_LOGIT = -1024.0
"""Mask logit of an object judged absent (SAM 2 release: NO_OBJ_SCORE)."""

SUPPRESSED_LOGIT = -10.0
"""Where objects may not overlap, a pixel that another object wins has at most this logit (SAM 2 release)."""

GIVEN_LOGIT = 10.0
"""A mask given as the answer becomes logits of plus or minus this (SAM 2 release: 20 * mask - 10)."""

VERBS = ("encode", "attend", "decode", "memorize")
"""What a model does with a frame: Eq. 1 to 4, in their order."""

FOREGROUND, BACKGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING = 1, 0, 2, 3, -1
"""Point labels (SAM 2 release). A box is two points with labels 2 and 3."""


class ImageFeatures(NamedTuple):
    """What the image encoder says of B images: Eq. 1, F4, F8, F16 = E_img(I). f4 and f8 are None for EfficientTAM."""

    f4: Tensor | None  # (B, C/8, S/4, S/4), projected for the decoder
    f8: Tensor | None  # (B, C/4, S/8, S/8), projected for the decoder
    f16: Tensor  # (B, C, S/16, S/16), before the no-memory embedding

    def of(self, index: Tensor | slice) -> ImageFeatures:
        """The features of the chosen images, one row per entry of `index` (usually `video_of`: one row per object)."""
        f4, f8 = (None if level is None else level[index] for level in (self.f4, self.f8))
        return ImageFeatures(f4, f8, self.f16[index])


class Prompts(NamedTuple):
    """What a person says about O objects on one frame. Coordinates are pixels (x, y) of the S x S input."""

    points: Tensor | None = None  # (O, P, 2) float
    labels: Tensor | None = None  # (O, P) int: 1 foreground, 0 background, 2 and 3 box corners, -1 padding
    mask: Tensor | None = None  # (O, 1, S, S) bool, given as the answer
    previous: Tensor | None = None  # (O, 1, S/4, S/4) logits that the points correct

    @property
    def num_points(self) -> int:
        """Points an object carries; a box counts two, the padding that the encoder appends is not counted."""
        return 0 if self.points is None else self.points.shape[1]


class Decoded(NamedTuple):
    """One answer of the mask decoder: Eq. 3, O = D(F_M, F4, F8, P). Masks of absent objects are ABSENT_LOGIT."""

    logits: Tensor  # (O, M, S/4, S/4), M = 3 candidates or 1
    iou: Tensor  # (O, M) predicted IoU
    presence: Tensor  # (O, 1) logit; above 0 the object is visible
    pointer: Tensor  # (O, C) object pointer of the best candidate
    prompts: Prompts | None  # what was asked; None when the frame was only tracked

    @property
    def choice(self) -> Tensor:
        """Index (O,) of the candidate with the highest predicted IoU."""
        return self.iou.argmax(dim=1)

    @property
    def best(self) -> Tensor:
        """Logits (O, 1, S/4, S/4) of the candidate with the highest predicted IoU."""
        if self.logits.shape[1] == 1:
            return self.logits
        rows = torch.arange(self.logits.shape[0], device=self.logits.device)
        return self.logits[rows, self.choice].unsqueeze(1)

    @property
    def visible(self) -> Tensor:
        """(O,) bool: is the object in this frame?"""
        return self.presence[:, 0] > 0


class FrameOutput(NamedTuple):
    """All answers given for one frame, in the order they were asked for."""

    rounds: tuple[Decoded, ...]
    f_m: Tensor  # (O or 1, C, S/16, S/16) memory-conditioned features: Eq. 2
    recalled: bool  # did the frame read any memory? False on prompted frames that start afresh

    @property
    def final(self) -> Decoded:
        return self.rounds[-1]

    @property
    def prompted(self) -> bool:
        """Was anything said about this frame? (SAM 2's training configuration: corrected frames count.)"""
        return any(answer.prompts is not None for answer in self.rounds)


class Memory(NamedTuple):
    """What is kept of a frame: Eq. 4 to 6. The last h*w tokens lie on `grid`; the ones before have no place."""

    tokens: Tensor  # (O, N, D)
    pos: Tensor  # (1 or O, N, D) position of the keys; zero for tokens without a place
    pointer: Tensor  # (O, C)
    grid: tuple[int, int]  # (h, w); (0, 0) when no token has a place


class Recall(NamedTuple):
    """What the bank hands to memory attention at frame t. Ages, not indices; no parameters.

    `frames`: age 0 is a prompted frame, k >= 1 the slot k frames ago (k <= num_memories - 1).
    `pointers`: signed distance in frames, t - t_i, mirrored when tracking backwards.
    `span`: the divisor of pointer distances in SAM 2.1, min(clip length, num_pointers) - 1.
    """

    frames: tuple[tuple[int, Memory], ...] = ()
    pointers: tuple[tuple[int, Tensor], ...] = ()
    span: int = 15


EMPTY_RECALL = Recall()
"""A prompted frame starts afresh: it reads no memory, whatever the bank holds (SAM 2 release, is_init_cond_frame)."""


@dataclass(frozen=True)
class VideoBatch:
    """Clips of one length, with the objects to follow. An image is a video of one frame."""

    frames: Tensor  # (B, T, 3, S, S) uint8 RGB
    masks: Tensor  # (T, O, S, S) bool
    video_of: Tensor  # (O,) int64: the video of each object
    keys: tuple[str, ...]  # B names, for people and for replay
    source: str = "unknown"  # data set of the batch; a batch never mixes sources
    views: tuple[Tensor, ...] = ()  # the same frames drawn at other sides S', for teachers that look at that many pixels

    def frames_at(self, side: int) -> Tensor:
        """The frames (B, T, 3, side, side) uint8 as a model of this input size sees them.

        Raises:
            ValueError: the batch was not drawn at that size.
        """
        drawn = {frames.shape[-1]: frames for frames in (self.frames, *self.views)}
        if side not in drawn:
            raise ValueError(
                f"A model of {side} px is shown a batch that was drawn at {', '.join(map(str, drawn))} px; the loader draws "
                "other sizes when it is told of them (build_loader(views=...))."
            )
        return drawn[side]

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]

    @property
    def num_objects(self) -> int:
        return self.masks.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False, **_: object) -> VideoBatch:
        """Move the tensors. Lightning needs this method on a frozen dataclass."""
        move = {"device": device, "non_blocking": non_blocking}
        return self._with(lambda tensor: tensor.to(**move))

    def pin_memory(self) -> VideoBatch:
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> VideoBatch:
        """The same batch with every tensor changed."""
        views = tuple(change(view) for view in self.views)
        tensors = {name: change(getattr(self, name)) for name in ("frames", "masks", "video_of")}
        return replace(self, views=views, **tensors)
