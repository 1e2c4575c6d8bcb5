"""What an interactive session may do differently from evaluation: the released predictor's habits, each with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetam_pl.tracking.frame_tracker import TrackingOptions

HoleFilling = Callable[[Tensor, int], Tensor]
"""(logits (O, M, h, w), largest area in low-resolution pixels) -> logits with small holes made foreground."""


@dataclass(frozen=True)
class SessionOptions(TrackingOptions):
    """How a session tracks, and what it keeps. With the defaults its answers are those of evaluation, number for number.

    `released()` are the habits of SAM 2's released video predictor, `image()` those of its image predictor.
    """

    corrections_are_prompted: bool = True
    """A corrected frame becomes a prompted one and is never forgotten (training: yes; released predictor: no)."""
    clamp_previous: float = 32.0
    """Logits that a correction starts from are clamped to plus or minus this; 0: not at all."""
    fill_holes_area: int = 0
    """Holes up to this many pixels, at a quarter of the input side, are filled in the answer."""
    non_overlap: bool = False
    """In the answer a pixel belongs to one object, the one with the highest logit. Memories are not touched."""
    keep_all: bool = False
    """Keep every memory and answer, to go back to any frame; otherwise only those within reach of the current frame."""
    batch_objects: bool = False
    """Objects with the same history go through the network together. Faster; an object's numbers may then depend, in the
    last digits, on the objects beside it."""
    undo_depth: int = 16
    """Steps that can be undone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("clamp_previous", self.clamp_previous), ("fill_holes_area", self.fill_holes_area)):
            if value < 0:
                raise ValueError(f"{name} is {value}; use 0 to turn it off, or a positive number.")
        if self.undo_depth < 1:
            raise ValueError(f"undo_depth is {self.undo_depth}; it must be at least 1.")

    @classmethod
    def released(cls, *, postprocessing: bool = True) -> SessionOptions:
        """SAM 2's video predictor as its builders make it; without post-processing, as in its VOS benchmarks."""
        return cls(
            corrections_are_prompted=False,
            memory_dtype=torch.bfloat16,
            binarize_prompted_memory=postprocessing,
            dynamic_multimask=postprocessing,
            fill_holes_area=8 if postprocessing else 0,
        )

    @classmethod
    def image(cls) -> SessionOptions:
        """SAM 2's image predictor: one picture, any number of objects, no verdict on presence."""
        return cls(gate=False, resize="bilinear")
