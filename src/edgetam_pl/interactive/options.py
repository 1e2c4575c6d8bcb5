"""What an interactive session may do differently from the plain step: the released predictor's habits, each with a name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgetam_pl.types import Decoded, ImageFeatures, Memory, Prompts, Recall

HoleFilling = Callable[[Tensor, int], Tensor]
"""(logits (O, M, h, w), largest area in low-resolution pixels) -> logits with small holes made foreground."""


class SessionTracker(Protocol):
    """A tracker with its first verb and its manners: what a session needs of a model."""

    image_size: int

    def normalise(self, frames: Tensor) -> Tensor:
        """(..., 3, S, S) uint8 RGB -> float, as `encode` wants it."""
        ...

    def encode(self, images: Tensor) -> ImageFeatures:
        """Eq. 1: F4, F8, F16 = E_img(I)."""
        ...

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """Eq. 2."""
        ...

    def decode(
        self,
        f_m: Tensor,
        features: ImageFeatures,
        prompts: Prompts | None,
        *,
        gate: bool = True,
        dynamic_multimask: bool = False,
    ) -> Decoded:
        """Eq. 3. `gate`: masks of objects judged absent become ABSENT_LOGIT."""
        ...

    def memorize(self, f16: Tensor, decoded: Decoded, *, binarize: bool = False) -> Memory:
        """Eq. 4 to 6. `binarize`: the mask that is remembered is black and white."""
        ...


@dataclass(frozen=True)
class SessionOptions:
    """The defaults are the plain step, number for number: what training and evaluation do.

    `released()` are the habits of SAM 2's released video predictor, `image()` those of its image predictor.
    """

    corrections_are_prompted: bool = True
    """A corrected frame becomes a prompted one and is never forgotten (training: yes; released predictor: no)."""
    clamp_previous: float = 32.0
    """Logits that a correction starts from are clamped to plus or minus this; 0: not at all."""
    binarize_prompted_memory: bool = False
    """Memories of prompted frames are made from black and white masks: what a person saw."""
    dynamic_multimask: bool = False
    """An unstable single mask is replaced by the best of three (thresholds 0.05 and 0.98)."""
    fill_holes_area: int = 0
    """Holes up to this many pixels, at a quarter of the input side, are filled in the answer."""
    memory_from_low_res: bool = False
    """Memory of a given mask is made from its quarter-size logits, not from the mask itself. Corrections that do not count
    as prompted are always remembered so."""
    non_overlap: bool = False
    """In the answer a pixel belongs to one object, the one with the highest logit. Memories are not touched."""
    memory_dtype: torch.dtype | None = None
    """Memory tokens are stored so; None: as they come."""
    gate: bool = True
    """Masks of objects judged absent are empty; image mode: no."""
    resize: str = "bicubic"
    """How frames become S x S, antialiased: bicubic (SAM 2's video folders) | bilinear (its image predictor)."""
    keep_all: bool = False
    """Keep every memory and answer, to go back to any frame; otherwise only those within reach of the current frame."""
    batch_objects: bool = False
    """Objects with the same history go through the network together. Faster; an object's numbers may then differ in the
    last digits with the company it keeps."""
    autocast: torch.dtype | None = None
    """Compute in this type where torch's autocast finds it safe (bfloat16)."""
    channels_last: bool = False
    """Frames enter the encoder with channels innermost, which convolutions on most machines like."""
    cached_frames: int = 2
    """Frames whose image features are kept for the next click."""
    undo_depth: int = 16
    """Steps that can be undone."""

    def __post_init__(self) -> None:
        if self.resize not in ("bicubic", "bilinear"):
            raise ValueError(f"resize is {self.resize!r}; use bicubic or bilinear.")
        for name, value in (("clamp_previous", self.clamp_previous), ("fill_holes_area", self.fill_holes_area)):
            if value < 0:
                raise ValueError(f"{name} is {value}; use 0 to turn it off, or a positive number.")
        for name, value in (("cached_frames", self.cached_frames), ("undo_depth", self.undo_depth)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")

    @classmethod
    def released(cls, *, postprocessing: bool = True) -> SessionOptions:
        """SAM 2's video predictor as its builders make it; without post-processing, as in its VOS benchmarks."""
        return cls(
            corrections_are_prompted=False,
            memory_from_low_res=True,
            memory_dtype=torch.bfloat16,
            binarize_prompted_memory=postprocessing,
            dynamic_multimask=postprocessing,
            fill_holes_area=8 if postprocessing else 0,
        )

    @classmethod
    def image(cls) -> SessionOptions:
        """SAM 2's image predictor: one picture, any number of objects, no verdict on presence."""
        return cls(gate=False, resize="bilinear")


@dataclass(frozen=True)
class OptionedTracker:
    """A tracker that `observe` and `remember` can use, with the session's options applied. `by_hand`: the answer to be
    remembered is a person's doing."""

    tracker: SessionTracker
    options: SessionOptions
    by_hand: bool = False

    def encode(self, images: Tensor) -> ImageFeatures:
        with self.precision(images.device):
            return self.tracker.encode(images)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        if self.options.memory_dtype is not None:
            frames = tuple((age, memory._replace(tokens=memory.tokens.to(f16.dtype))) for age, memory in recall.frames)
            recall = recall._replace(frames=frames)
        with self.precision(f16.device):
            return self.tracker.attend(f16, recall)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        dynamic, gate = self.options.dynamic_multimask, self.options.gate
        with self.precision(f_m.device):
            return self.tracker.decode(f_m, features, prompts, gate=gate, dynamic_multimask=dynamic)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        if self.options.memory_from_low_res and decoded.prompts is not None:
            decoded = decoded._replace(prompts=decoded.prompts._replace(mask=None))
        with self.precision(f16.device):
            memory = self.tracker.memorize(f16, decoded, binarize=self.by_hand and self.options.binarize_prompted_memory)
        if self.options.memory_dtype is None:
            return memory
        return memory._replace(tokens=memory.tokens.to(self.options.memory_dtype))

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Autocast when the options ask for it."""
        if self.options.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.options.autocast)
