"""The objective of training: all answers against the truth and against the teacher (Eq. 7 and 8, Table 5; SAM 2 release)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.losses.distill import DISTANCES, FRAMES, image_distance, memory_distance
from edgetam_pl.losses.masks import presence, score
from edgetam_pl.types import GIVEN_LOGIT, Decoded, FrameOutput


class Weights(Protocol):
    """Weights of the terms; `config.LossWeights` is one."""

    focal: float
    dice: float
    iou: float
    presence: float
    img: float
    mem: float


class Losses(NamedTuple):
    """The six terms, scalars in fp32. Unweighted as the objective returns them."""

    focal: Tensor
    dice: Tensor
    iou: Tensor
    presence: Tensor
    img: Tensor
    mem: Tensor

    def weighted(self, weights: Weights) -> Losses:
        return Losses(
            focal=weights.focal * self.focal,
            dice=weights.dice * self.dice,
            iou=weights.iou * self.iou,
            presence=weights.presence * self.presence,
            img=weights.img * self.img,
            mem=weights.mem * self.mem,
        )

    @property
    def total(self) -> Tensor:
        return torch.stack(self).sum()

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Detached, by name, for the log: train/focal and so on."""
        return {f"{prefix}/{name}": value.detach() for name, value in self._asdict().items()}


class Objective:
    """What a clip costs.

    Every answer counts, up to eight on a corrected frame: terms are summed over objects, answers and frames, and divided
    by the number of objects alone. Of several candidates only the best, by the weighted sum of focal and dice, is held to
    the truth; every candidate's predicted IoU is. An absent object is asked for its absence only.
    """

    def __init__(
        self,
        weights: Weights,
        distance: str = "mse",
        mask_size: int = 0,
        candidates: str = "best",
        memory_frames: str = "recalled",
    ) -> None:
        """`mask_size` is the side at which masks are compared; 0: that of the truth. `candidates` is best (SAM 2) or all:
        every candidate is held to the truth, so that it matters less which one is taken. `memory_frames`: where L_mem
        counts (`memory_distance`)."""
        if candidates not in {"best", "all"}:
            raise ValueError(f"candidates is {candidates!r}; use best (SAM 2's rule) or all.")
        if distance not in DISTANCES:
            raise ValueError(f"There is no distance {distance!r}; choose one of {', '.join(DISTANCES)}.")
        if mask_size < 0:
            raise ValueError(f"mask_size is {mask_size}; give a side in pixels, or 0 for the full input resolution.")
        if memory_frames not in FRAMES:
            raise ValueError(f"memory_frames is {memory_frames!r}; choose one of {', '.join(FRAMES)}.")
        self.weights, self.distance, self.mask_size, self.candidates = weights, distance, mask_size, candidates
        self.memory_frames = memory_frames

    def __call__(
        self,
        masks: Tensor,
        outputs: Sequence[FrameOutput],
        *,
        student_f16: Tensor | None = None,
        teacher_f16: Tensor | None = None,
        teacher_outputs: Sequence[FrameOutput] | None = None,
        num_objects: float | Tensor,
    ) -> Losses:
        """Unweighted losses of a clip.

        `masks` (T, O, S, S) bool is the truth of the T outputs, F16 is (B*T, C, h, w), `num_objects` the mean of O over
        the ranks (below 1 it counts as 1; a tensor spares the host a wait). Computed in fp32, whatever autocast says.
        """
        if len(masks) != len(outputs):
            raise ValueError(f"There are {len(masks)} true frames and {len(outputs)} outputs; give one output per frame.")
        with torch.autocast(device_type=masks.device.type, enabled=False):
            task = torch.stack([self._frame(truth, frame) for truth, frame in zip(masks, outputs, strict=True)])  # (T, 4)
            count = num_objects.clamp(min=1) if isinstance(num_objects, Tensor) else max(num_objects, 1.0)
            focal, dice, iou, present = (task.sum(dim=0) / count).unbind()
            zero = torch.zeros_like(focal.detach())
            img = mem = zero
            if student_f16 is not None and teacher_f16 is not None:
                img = image_distance(student_f16, teacher_f16, self.distance)
            if teacher_outputs is not None:
                mem = memory_distance(outputs, teacher_outputs, self.distance, self.memory_frames)
        return Losses(focal, dice, iou, present, img, mem)

    def _frame(self, truth: Tensor, frame: FrameOutput) -> Tensor:
        """(4,): the task terms of one frame, summed over its answers and objects. `truth` is (O, S, S) bool."""
        present = truth.flatten(1).any(dim=1)  # (O,); at full resolution, where thin objects still exist
        truth = self._resized(truth)
        return torch.stack([self._answer(truth, present, answer) for answer in frame.rounds]).sum(dim=0)

    def _answer(self, truth: Tensor, present: Tensor, answer: Decoded) -> Tensor:
        """(4,): focal, dice, iou, presence of one answer, summed over objects."""
        logits = answer.logits
        if answer.prompts is not None and answer.prompts.mask is not None:
            # A mask given as the answer is known at full resolution; it has no gradient (SAM 2 release).
            given = self._resized(answer.prompts.mask[:, 0])[:, None]  # (O, 1, S, S)
            logits = torch.where(given, GIVEN_LOGIT, -GIVEN_LOGIT)
        choose = logits.shape[1] > 1 and self.candidates == "best"
        candidates = score(logits.detach() if choose else logits, truth)  # (O, M)
        chosen = candidates
        if choose:
            best = (self.weights.focal * candidates.focal + self.weights.dice * candidates.dice).argmin(dim=1)  # (O,)
            # Only the best candidate has a gradient, so only it is differentiated: once more, alone.
            chosen = score(logits[torch.arange(len(best), device=best.device), best][:, None], truth)  # (O, 1)
        wrong_iou = (answer.iou.float() - candidates.iou).abs().mean(dim=1)  # (O, M) -> (O,)
        terms = torch.stack([chosen.focal.mean(dim=1), chosen.dice.mean(dim=1), wrong_iou]) * present  # (3, O)
        return torch.cat([terms, presence(answer.presence, present).T]).sum(dim=1)  # (4, O) -> (4,)

    def _resized(self, masks: Tensor) -> Tensor:
        """Bool masks (O, S, S) at the side of the comparison; a pixel is object where at least half of it is."""
        size = self.mask_size or masks.shape[-1]
        if size == masks.shape[-1]:
            return masks
        return F.interpolate(masks[:, None].float(), size=(size, size), mode="area")[:, 0] >= 0.5
