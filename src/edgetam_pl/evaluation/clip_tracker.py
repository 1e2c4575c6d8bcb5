"""A model looking at a clip: frames go in at the model's size, answers come out at the clip's (trap 29)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.evaluation.clips import Clip, Frame, Masks
from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.step import PromptFn, observe, remember
from edgetam_pl.types import ABSENT_LOGIT, Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall

SUPPRESSED_LOGIT = -10.0
"""A pixel that another object wins gets at most this (SAM 2 release)."""


class EvaluatedModel(Protocol):
    """The verbs of a tracker, and what it takes to begin: its input size and how to normalise frames."""

    @property
    def image_size(self) -> int: ...

    def normalise(self, frames: Tensor) -> Tensor:
        """(..., 3, S, S) uint8 RGB -> float."""
        ...

    def encode(self, images: Tensor) -> ImageFeatures:
        """Eq. 1."""
        ...

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        """Eq. 2."""
        ...

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None, *, gate: bool = True) -> Decoded:
        """Eq. 3. `gate`: objects judged absent have no mask; False in image mode."""
        ...

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        """Eq. 4 to 6."""
        ...


@dataclass(frozen=True)
class Precision:
    """Where and how a model computes."""

    device: torch.device
    autocast: torch.dtype | None = None
    """bfloat16 on accelerators, as published results were made; None: the weights' own type."""

    def context(self) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)


@dataclass(frozen=True)
class Eyes:
    """A model in front of one clip. A `Tracker` itself, with the precision applied to every verb."""

    model: EvaluatedModel
    clip: Clip
    precision: Precision
    gate: bool = True
    """Objects judged absent have no mask; False in image mode (SAM 2's image predictor)."""

    @property
    def side(self) -> int:
        """S."""
        return self.model.image_size

    def see(self, t: int) -> ImageFeatures:
        """Features of frame t, batch 1: all objects share them."""
        frame = resized_frame(self.clip.frames.read(t), self.side).to(self.precision.device)
        with self.precision.context():
            return self.model.encode(self.model.normalise(frame))

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        with self.precision.context():
            return self.model.attend(f16, recall)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        with self.precision.context():
            return self.model.decode(f_m, features, prompts, gate=self.gate)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        """The memory of a given mask is made from its S/4 logits, as that of any other answer (SAM 2 release, in its VOS
        evaluation; in training it is made from the mask itself)."""
        if decoded.prompts is not None and decoded.prompts.mask is not None:
            decoded = decoded._replace(prompts=decoded.prompts._replace(mask=None))
        with self.precision.context():
            return self.model.memorize(f16, decoded)

    def mask_prompt(self, masks: Masks) -> Prompts:
        """Masks (O, H, W) at native size, given as the answer."""
        given = torch.from_numpy(masks).to(self.precision.device)[:, None].float()  # (O, 1, H, W)
        side = (self.side, self.side)
        # antialiased, then at least one half (SAM 2 release)
        return Prompts(mask=F.interpolate(given, side, mode="bilinear", align_corners=False, antialias=True) >= 0.5)

    def scaled(self, prompts: Prompts) -> Prompts:
        """Points in pixels (x, y) of the native frame, moved to the S x S input."""
        if prompts.points is None:
            return prompts
        height, width = self.clip.size
        factor = torch.tensor([self.side / width, self.side / height])
        labels = None if prompts.labels is None else prompts.labels.to(self.precision.device)
        return prompts._replace(points=(prompts.points * factor).to(self.precision.device), labels=labels)

    def enlarged(self, answer: Decoded) -> Tensor:
        """Logits (O, H, W) at native size, straight from the S/4 grid."""
        return F.interpolate(answer.best.float(), self.clip.size, mode="bilinear", align_corners=False)[:, 0]

    def bank(self) -> MemoryBank:
        """An empty bank with the policy of evaluation: pointers of future prompted frames are left out (SAM 2 release)."""
        return MemoryBank(policy=RecallPolicy(past_pointers_only=True, clip_length=self.clip.num_frames))


@dataclass
class Follower:
    """Some objects of a clip being followed: the bank goes from frame to frame, and nothing else is kept."""

    eyes: Eyes
    bank: MemoryBank

    def look(self, t: int, features: ImageFeatures, ask: PromptFn) -> FrameOutput:
        """Answer for frame t, and remember it unless it is the last: nobody would read that."""
        output = observe(self.eyes, self.bank, features, t, ask)
        if t < self.eyes.clip.num_frames - 1:
            self.bank = remember(self.eyes, self.bank, features, t, output)
        return output


def silent(answer: Decoded | None) -> Prompts | None:
    """A person with nothing to say."""
    return None


def resized_frame(frame: Frame, side: int) -> Tensor:
    """A frame (H, W, 3) as the model takes it, (1, 3, S, S) uint8: antialiased bicubic, the aspect ratio is not kept
    (SAM 2 release, its reader of video folders)."""
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]  # (1, 3, H, W)
    if pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False, antialias=True)


def decided(logits: Tensor, *, non_overlap: bool) -> Masks:
    """Masks (O, H, W) from logits: above 0, and where objects may not overlap, only the highest of a pixel."""
    if non_overlap and len(logits) > 1:
        winner = logits.argmax(dim=0, keepdim=True) == torch.arange(len(logits), device=logits.device)[:, None, None]
        logits = torch.where(winner, logits, logits.clamp(max=SUPPRESSED_LOGIT))
    return (logits > 0).cpu().numpy()


def absent(clip: Clip, device: torch.device) -> Tensor:
    """Logits (O, H, W) of objects that nobody has mentioned yet."""
    return torch.full((len(clip.objects), *clip.size), ABSENT_LOGIT, device=device)


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """No gradients; a module is in evaluation mode meanwhile, and each of its parts is put back as it was.

    Not torch's inference mode: tables that a model caches meanwhile must still serve the training that goes on.
    """
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    before = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training
