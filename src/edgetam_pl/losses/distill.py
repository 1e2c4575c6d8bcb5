"""What the student's features should resemble: L_img and L_mem of Eq. 7 and 8. Means over elements, in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.types import FrameOutput


def _one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


DISTANCES = {"mse": F.mse_loss, "cosine": _one_minus_cosine}
FRAMES = ("recalled", "all")


def distance(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """Scalar distance of two maps (N, C, h, w): mse (the paper), or cosine, one minus the similarity along C.

    The teacher gets no gradient. A batch of 1 on one side stands for all rows of the other. L_img is this distance of F16
    (B*T, C, h, w): once per image, not per object, before the no-memory embedding.

    Raises:
        ValueError: the maps have other channels or another size.
    """
    if student.shape[1:] != teacher.shape[1:]:
        raise ValueError(
            f"The student's features are {tuple(student.shape[1:])}, the teacher's {tuple(teacher.shape[1:])} (C, h, w); "
            "distillation compares them number by number. Bring them to one shape first (`losses.match`)."
        )
    if teacher.is_inference():
        teacher = teacher.clone()  # backward may not keep what was made under inference mode
    student, teacher = torch.broadcast_tensors(student.float(), teacher.detach().float())
    return DISTANCES[kind](student, teacher)


def memory_distance(
    student: Sequence[FrameOutput],
    teacher: Sequence[FrameOutput],
    kind: str,
    frames: str = "recalled",
    *,
    match: FeatureMatch | None = None,
) -> Tensor:
    """L_mem on F_M, the mean over the frames on which both models recalled something; 0 if there is none. `match` brings
    maps of other shapes together.

    Elsewhere F_M is F16 plus each model's own constant; with `frames` = all it counts there too, but never where a mask was
    given, which no F_M took part in.
    """
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        if (ours.recalled and theirs.recalled) or (frames == "all" and not _given(ours)):
            f_m, target = match(ours.f_m, theirs.f_m, "f_m") if match is not None else (ours.f_m, theirs.f_m)
            terms.append(distance(f_m, target, kind))
    if not terms:
        return student[0].f_m.new_zeros((), dtype=torch.float32)
    return torch.stack(terms).mean()


def _given(output: FrameOutput) -> bool:
    prompts = output.rounds[0].prompts
    return prompts is not None and prompts.mask is not None
