"""A model in front of the frames of one video: the only way from pixels to masks at inference.

The interactive session, every protocol of evaluation, validation during training and the benchmark track through
`FrameTracker`, so with equal options they give equal answers. Frames are resized, prompts are moved to the model's input,
and masks return to the frames' own size here, and nowhere else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.tracking.bank import MemoryBank, RecallPolicy
from edgetam_pl.tracking.step import PromptFn, VideoModel, observe
from edgetam_pl.types import SUPPRESSED_LOGIT, Decoded, FrameOutput, ImageFeatures, Memory, Prompts, Recall


@dataclass(frozen=True)
class TrackingOptions:
    """How frames are tracked. The defaults are what evaluation does; see `SessionOptions.released` for SAM 2's predictor."""

    gate: bool = True
    """Masks of objects judged absent are empty; image mode: no."""
    memory_from_low_res: bool = True
    """Memory of a given mask is made from its quarter-size logits, like that of any other answer (SAM 2 release, in its VOS
    evaluation; the exported programs too). False: from the mask itself, as in training (SAM 2 release as well)."""
    binarize_prompted_memory: bool = False
    """Memories of prompted frames are made from black and white masks: what a person saw."""
    dynamic_multimask: bool = False
    """An unstable single mask is replaced by the best of three (thresholds 0.05 and 0.98)."""
    memory_dtype: torch.dtype | None = None
    """Memory tokens are stored so; None: as they come."""
    resize: str = "bicubic"
    """How frames become S x S, antialiased: bicubic (SAM 2's video folders) | bilinear (its image predictor)."""
    autocast: torch.dtype | None = None
    """Compute in this type where torch's autocast finds it safe (bfloat16, as published results were made)."""
    channels_last: bool = False
    """Frames enter the encoder with channels innermost: for models whose weights lie so (`FastTracker`)."""
    cached_frames: int = 2
    """Frames whose image features are kept: all objects of a frame share them, and so does the next click."""

    def __post_init__(self) -> None:
        if self.resize not in ("bicubic", "bilinear"):
            raise ValueError(f"resize is {self.resize!r}; use bicubic or bilinear.")
        if self.cached_frames < 1:
            raise ValueError(f"cached_frames is {self.cached_frames}; it must be at least 1.")


@dataclass(frozen=True, eq=False)
class FrameTracker:
    """A model in front of one video, and a `Tracker` itself: each of its methods applies the options.

    Nothing is kept but the image features of the last frames; memory goes in and comes out as a bank.
    """

    model: VideoModel
    """In evaluation mode."""
    read: Callable[[int], np.ndarray]
    """Frame t of the video, (H, W, 3) uint8 RGB."""
    size: tuple[int, int]
    """(H, W) of all frames, in pixels."""
    count: int | None = None
    """Frames of the video; None when nobody knows (a live stream)."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the model is."""
    options: TrackingOptions = TrackingOptions()
    _features: OrderedDict[int, ImageFeatures] = field(default_factory=OrderedDict, init=False, repr=False)

    # ------------------------------------------------------------------ a Tracker with the options applied

    def encode(self, images: Tensor) -> ImageFeatures:
        """Features of normalised images (B, 3, S, S)."""
        with self._precision():
            return self.model.encode(images)

    def attend(self, f16: Tensor, recall: Recall) -> Tensor:
        if self.options.memory_dtype is not None:
            frames = tuple((age, memory._replace(tokens=memory.tokens.to(f16.dtype))) for age, memory in recall.frames)
            recall = recall._replace(frames=frames)
        with self._precision():
            return self.model.attend(f16, recall)

    def decode(self, f_m: Tensor, features: ImageFeatures, prompts: Prompts | None) -> Decoded:
        dynamic, gate = self.options.dynamic_multimask, self.options.gate
        with self._precision():
            return self.model.decode(f_m, features, prompts, gate=gate, dynamic_multimask=dynamic)

    def memorize(self, f16: Tensor, decoded: Decoded) -> Memory:
        prompted = decoded.prompts is not None
        if self.options.memory_from_low_res and decoded.prompts is not None:
            decoded = decoded._replace(prompts=decoded.prompts._replace(mask=None))
        with self._precision():
            memory = self.model.memorize(f16, decoded, binarize=prompted and self.options.binarize_prompted_memory)
        if self.options.memory_dtype is None:
            return memory
        return memory._replace(tokens=memory.tokens.to(self.options.memory_dtype))

    # ------------------------------------------------------------------ frames

    def features(self, t: int) -> ImageFeatures:
        """Image features of frame t, batch 1: all objects share them. Those of the last few frames are kept.

        Raises:
            ValueError: the frame has another size than the video, or cannot be read.
        """
        if t not in self._features:
            layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
            image = resized_frame(self._checked(t), self.model.image_size, mode=self.options.resize)
            image = self.model.normalise(image.contiguous(memory_format=layout).to(self.device))
            self._features[t] = self.encode(image.contiguous(memory_format=layout))
        self._features.move_to_end(t)
        while len(self._features) > self.options.cached_frames:
            self._features.popitem(last=False)
        return self._features[t]

    def empty_bank(self) -> MemoryBank:
        """A bank in which nothing is remembered, with the policy of inference."""
        return MemoryBank(policy=RecallPolicy.inference(self.count))

    def step(self, bank: MemoryBank, t: int, ask: PromptFn) -> tuple[FrameOutput, MemoryBank]:
        """Answer for frame t, then remember it, unless it is the video's last frame: nobody would read that memory."""
        output = observe(self, bank, self.features(t), t, ask)
        if self.count is not None and t == self.count - 1:
            return output, bank
        return output, self.remember(bank, t, output.final, prompted=output.prompted)

    def remember(self, bank: MemoryBank, t: int, decoded: Decoded, *, prompted: bool) -> MemoryBank:
        """The bank with the memory of this answer for frame t."""
        return bank.write(t, self.memorize(self.features(t).f16, decoded), prompted=prompted)

    # ------------------------------------------------------------------ prompts in, masks out

    def mask_prompt(self, masks: np.ndarray | Tensor) -> Prompts:
        """Masks (O, H, W) bool, given as the answer: resized with antialiasing, then at least one half (SAM 2 release)."""
        given = torch.as_tensor(masks, device=self.device)[:, None].float()  # (O, 1, H, W)
        side = (self.model.image_size, self.model.image_size)
        return Prompts(mask=F.interpolate(given, side, mode="bilinear", antialias=True, align_corners=False) >= 0.5)

    def point_prompt(self, points: Tensor, labels: Tensor) -> Prompts:
        """Points (O, P, 2) in pixels (x, y) of the frame, moved to the S x S input; labels (O, P) as in `Prompts`."""
        height, width = self.size
        scale = torch.tensor([self.model.image_size / width, self.model.image_size / height])
        return Prompts((points * scale).to(self.device), labels.to(self.device))

    def enlarged(self, logits: Tensor) -> Tensor:
        """Logits (O, 1, S/4, S/4) -> (O, H, W) float32: straight to the frame's size (SAM 2 release)."""
        return F.interpolate(logits.float(), self.size, mode="bilinear", align_corners=False)[:, 0]

    def _checked(self, t: int) -> np.ndarray:
        frame = self.read(t)
        expected = (*self.size, 3)
        if frame.shape != expected or frame.dtype != np.uint8:
            raise ValueError(
                f"Frame {t} is {frame.shape} {frame.dtype}; expected {expected} uint8 RGB like the first one. "
                "All frames of a video must have one size."
            )
        return frame

    def _precision(self) -> AbstractContextManager[object]:
        if self.options.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.options.autocast)


def resized_frame(frame: np.ndarray, side: int, *, mode: str = "bicubic") -> Tensor:
    """A frame (H, W, 3) uint8 as the model takes it, (1, 3, S, S) uint8; the aspect ratio is not kept (SAM 2 release)."""
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None]  # a copy: cameras reuse their buffers
    return F.interpolate(pixels, (side, side), mode=mode, antialias=True, align_corners=False)


def without_overlap(logits: Tensor) -> Tensor:
    """Logits (O, H, W) in which a pixel belongs to one object at most, the one with the highest logit."""
    if len(logits) < 2:
        return logits
    winner = logits.argmax(dim=0, keepdim=True) == torch.arange(len(logits), device=logits.device)[:, None, None]
    return torch.where(winner, logits, logits.clamp(max=SUPPRESSED_LOGIT))


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
