"""The objective of training: all answers against the truth and against the teacher (Eq. 7 and 8, Table 5; SAM 2 release).

A term is a name, a function, and how it is reduced; `TERMS` lists them. A new one is an entry here, its weight in
`config.LossWeights`, and a value in the stage's YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetam_pl.losses.distill import DISTANCES, FRAMES, distance, memory_distance
from edgetam_pl.losses.masks import Scores, presence, score
from edgetam_pl.losses.match import FeatureMatch
from edgetam_pl.types import GIVEN_LOGIT, Decoded, FrameOutput

CANDIDATES = ("best", "all")


class Losses(dict[str, Tensor]):
    """Scalars in fp32 by the name of their term. Unweighted as the objective returns them."""

    def weighted(self, weights: object) -> Losses:
        """Each term times the attribute of its name, for instance of `config.LossWeights`."""
        return Losses({name: getattr(weights, name) * value for name, value in self.items()})

    @property
    def total(self) -> Tensor:
        return self.stacked().sum()

    def stacked(self) -> Tensor:
        """(K,): the terms in their order."""
        return torch.stack(list(self.values()))

    def detached(self) -> Losses:
        """The same values without the graph."""
        return Losses({name: value.detach() for name, value in self.items()})

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Detached, by name, for the log: train/focal and so on."""
        return {f"{prefix}/{name}": value for name, value in self.detached().items()}

    @classmethod
    def added(cls, parts: Iterable[Losses]) -> Losses:
        """The losses of a batch from those of its parts, each of which was given its share (`Objective`)."""
        every = list(parts)
        return cls({name: torch.stack([part[name] for part in every]).sum() for name in every[0]})


class JudgedAnswer(NamedTuple):
    """One answer of the student beside the truth, for O objects."""

    answer: Decoded
    candidates: Scores  # (O, M) of every candidate, without gradient where one of several was chosen
    chosen: Scores  # (O, 1), or (O, M) when every candidate is held to the truth
    present: Tensor  # (O,) bool: is the object in the frame?


class JudgedClip(NamedTuple):
    """What student and teacher made of a clip; None where there is no teacher, or it was not asked."""

    outputs: Sequence[FrameOutput]
    teacher_outputs: Sequence[FrameOutput] | None
    f16: Tensor | None  # (B*T, C, h, w)
    teacher_f16: Tensor | None


class StageSettings(Protocol):
    """What the objective reads of a stage."""

    weights: Any
    distance: str
    mask_size: int
    candidates: str
    memory_frames: str
    resample: str


@dataclass(frozen=True)
class AnswerTerm:
    """A term of every answer: (O,) values, summed over objects, answers and frames and divided by the number of objects,
    averaged over ranks. Of a batch in parts the sums add up."""

    name: str
    value: Callable[[JudgedAnswer], Tensor]


@dataclass(frozen=True)
class ClipTerm:
    """A term of the clip as a whole: a mean, or None where it does not apply. DDP averages it over ranks. Of a batch in
    parts each part counts by its share of the objects."""

    name: str
    value: Callable[[JudgedClip, Objective], Tensor | None]


@dataclass(frozen=True)
class Objective:
    """What a clip costs.

    Every answer counts, up to eight on a corrected frame. Of several candidates only the best, by the weighted sum of focal
    and dice, is held to the truth; every candidate's predicted IoU is. An absent object is asked for its absence only.

    Raises:
        ValueError: a setting has no such choice.
    """

    weights: Any
    """Attributes named as the terms; `focal` and `dice` also choose the best candidate."""
    distance: str = "mse"
    """Of L_img and L_mem: a key of `DISTANCES`."""
    mask_size: int = 0
    """Side at which masks are compared; 0: that of the truth."""
    candidates: str = "best"
    """best (SAM 2), or all: every candidate is held to the truth, so that it matters less which one is taken."""
    memory_frames: str = "recalled"
    """Where L_mem counts (`memory_distance`)."""
    terms: tuple[AnswerTerm | ClipTerm, ...] = ()
    """Empty: `TERMS`."""
    match: FeatureMatch = field(default_factory=FeatureMatch)
    """Brings the teacher's maps to the student's grid, and what it has learned to the student's."""

    @classmethod
    def of(cls, stage: StageSettings, match: FeatureMatch | None = None) -> Objective:
        """From the settings of a stage (`config.StageConfig`)."""
        match = FeatureMatch(resample=stage.resample) if match is None else match
        return cls(stage.weights, stage.distance, stage.mask_size, stage.candidates, stage.memory_frames, match=match)

    def __post_init__(self) -> None:
        for key, legal in (("distance", DISTANCES), ("candidates", CANDIDATES), ("memory_frames", FRAMES)):
            if (value := getattr(self, key)) not in legal:
                raise ValueError(f"{key} is {value!r}; use one of {', '.join(legal)}.")
        if self.mask_size < 0:
            raise ValueError(f"mask_size is {self.mask_size}; give a side in pixels, or 0 for the full input resolution.")

    def __call__(
        self,
        masks: Tensor,
        outputs: Sequence[FrameOutput],
        *,
        student_f16: Tensor | None = None,
        teacher_f16: Tensor | None = None,
        teacher_outputs: Sequence[FrameOutput] | None = None,
        num_objects: float | Tensor,
        share: float = 1.0,
    ) -> Losses:
        """Unweighted losses of a clip, in the order of the terms.

        Args:
            masks: (T, O, S, S) bool, the truth of the T outputs.
            outputs: the student's answers, one `FrameOutput` a frame.
            student_f16: (B*T, C, h, w); None: L_img is 0.
            teacher_f16: likewise.
            teacher_outputs: one a frame; None: L_mem is 0.
            num_objects: mean of O over the ranks (below 1 it counts as 1; a tensor spares the host a wait).
            share: of the batch's objects that these are, when it is taken in parts.

        Computed in fp32, whatever autocast says.

        Raises:
            ValueError: not one output per frame.
        """
        if len(masks) != len(outputs):
            raise ValueError(f"There are {len(masks)} true frames and {len(outputs)} outputs; give one output per frame.")
        terms = self.terms or TERMS
        of_answers = [term for term in terms if isinstance(term, AnswerTerm)]
        clip = JudgedClip(outputs, teacher_outputs, student_f16, teacher_f16)
        with torch.autocast(device_type=masks.device.type, enabled=False):
            frames = [self._frame(truth, frame, of_answers) for truth, frame in zip(masks, outputs, strict=True)]
            count = num_objects.clamp(min=1) if isinstance(num_objects, Tensor) else max(num_objects, 1.0)
            values = (torch.stack(frames).sum(dim=0) / count).unbind()  # (T, K) -> K scalars
            found = dict(zip((term.name for term in of_answers), values, strict=True))
            found |= {name: values[0].detach().new_zeros(()) if v is None else v for name, v in self._clip(clip, share)}
        return Losses({term.name: found[term.name] for term in terms})

    def of_clip(self, clip: JudgedClip, share: float = 1.0) -> dict[str, Tensor]:
        """The terms of the clip that apply, alone: what another teacher says of the same outputs."""
        with torch.autocast(device_type=clip.outputs[0].f_m.device.type, enabled=False):
            return {name: value for name, value in self._clip(clip, share) if value is not None}

    def _clip(self, clip: JudgedClip, share: float) -> Iterable[tuple[str, Tensor | None]]:
        for term in self.terms or TERMS:
            if isinstance(term, ClipTerm):
                value = term.value(clip, self)
                yield term.name, None if value is None else value * share

    def _frame(self, truth: Tensor, frame: FrameOutput, terms: Sequence[AnswerTerm]) -> Tensor:
        """(K,): the answer terms of one frame, summed over its answers and objects. `truth` is (O, S, S) bool."""
        present = truth.flatten(1).any(dim=1)  # (O,); at full resolution, where thin objects still exist
        truth = self._resized(truth)
        judged = [self._judged(truth, present, answer) for answer in frame.rounds]
        return torch.stack([torch.stack([term.value(one) for term in terms]).sum(dim=1) for one in judged]).sum(dim=0)

    def _judged(self, truth: Tensor, present: Tensor, answer: Decoded) -> JudgedAnswer:
        """One answer compared with the truth (O, s, s), candidate by candidate."""
        logits = answer.logits
        if answer.prompts is not None and answer.prompts.mask is not None:
            # A mask given as the answer is known at full resolution; it has no gradient (SAM 2 release).
            given = self._resized(answer.prompts.mask[:, 0])[:, None]  # (O, 1, S, S)
            logits = torch.where(given, GIVEN_LOGIT, -GIVEN_LOGIT)
        choose = logits.shape[1] > 1 and self.candidates == "best"
        candidates = score(logits.detach() if choose else logits, truth)  # (O, M)
        chosen = candidates
        if choose:
            ranked = self.weights.focal * candidates.focal + self.weights.dice * candidates.dice
            best = ranked.argmin(dim=1)  # (O,)
            # Only the best candidate has a gradient, so only it is differentiated: once more, alone.
            chosen = score(logits[torch.arange(len(best), device=best.device), best][:, None], truth)  # (O, 1)
        return JudgedAnswer(answer, candidates, chosen, present)

    def _resized(self, masks: Tensor) -> Tensor:
        """Bool masks (O, S, S) at the side of the comparison; a pixel is object where at least half of it is."""
        size = self.mask_size or masks.shape[-1]
        if size == masks.shape[-1]:
            return masks
        return F.interpolate(masks[:, None].float(), size=(size, size), mode="area")[:, 0] >= 0.5


def _focal(one: JudgedAnswer) -> Tensor:
    return one.chosen.focal.mean(dim=1) * one.present


def _dice(one: JudgedAnswer) -> Tensor:
    return one.chosen.dice.mean(dim=1) * one.present


def _iou(one: JudgedAnswer) -> Tensor:
    return (one.answer.iou.float() - one.candidates.iou).abs().mean(dim=1) * one.present


def _presence(one: JudgedAnswer) -> Tensor:
    return presence(one.answer.presence, one.present)[:, 0]


def _img(clip: JudgedClip, objective: Objective) -> Tensor | None:
    if clip.f16 is None or clip.teacher_f16 is None:
        return None
    f16, target = objective.match(clip.f16, clip.teacher_f16, "f16")
    return distance(f16, target, objective.distance)


def _mem(clip: JudgedClip, objective: Objective) -> Tensor | None:
    if clip.teacher_outputs is None:
        return None
    frames, match = objective.memory_frames, objective.match
    return memory_distance(clip.outputs, clip.teacher_outputs, objective.distance, frames, match=match)


TERMS: tuple[AnswerTerm | ClipTerm, ...] = (
    AnswerTerm("focal", _focal),
    AnswerTerm("dice", _dice),
    AnswerTerm("iou", _iou),
    AnswerTerm("presence", _presence),
    ClipTerm("img", _img),
    ClipTerm("mem", _mem),
)
"""The terms of Eq. 7 and 8."""
