"""From answers to scores: which frames count, and J and F of every object on them (rules of DAVIS and SA-V)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgetam_pl.evaluation.clips import Clip, ClipObject, Masks
from edgetam_pl.evaluation.protocols import Answer
from edgetam_pl.metrics.jf import region_and_boundary, region_similarity


@dataclass(frozen=True)
class ScoreRule:
    """Which frames count, and what is measured on them."""

    skip_first_and_last: bool = True
    """Leave out the first and the last annotated frame: the first is given, the last is DAVIS's habit."""
    counts_from: str = "first"
    """Where an object begins to count: on the `first` scored frame (DAVIS toolkit); on its `start`, where it is prompted;
    from its `appearance`, on the first scored frame that shows it in truth or prediction (SA-V evaluator, palettes)."""
    boundary: bool = True
    """Measure F too; VOST and Segment Anything measure regions alone."""

    @property
    def words(self) -> str:
        """For the conditions of a table's row."""
        frames = "all annotated frames but the first and last" if self.skip_first_and_last else "all annotated frames"
        return frames if self.counts_from == "first" else f"{frames}, objects count from their {self.counts_from}"

    def frames(self, item: ClipObject) -> tuple[int, ...]:
        """Frames of this object that are scored; none when its truth is hidden."""
        frames = item.annotated
        if self.counts_from == "start":
            frames = tuple(t for t in frames if t >= item.start)  # as if the video began there
        return frames[1:-1] if self.skip_first_and_last else frames


@dataclass(frozen=True)
class ObjectScore:
    """One row of a report: an object of a sequence, under one protocol. Values are 0 ... 1, one a scored frame."""

    sequence: str
    object: str
    stems: tuple[str, ...]
    j: tuple[float, ...]
    f: tuple[float, ...] = ()
    """Empty where boundaries are not measured."""
    round: int = 0
    """Prompted frames in promptable VOS, clicks in Segment Anything; 0 elsewhere."""
    group: str = ""
    person_seconds: float = 0.0
    """Estimated time that a person spent on the object; 0 where nobody was in the loop."""

    @property
    def mean_j(self) -> float:
        """0 ... 100."""
        return 100 * float(np.mean(self.j))

    @property
    def mean_f(self) -> float:
        """0 ... 100; NaN where boundaries are not measured."""
        return 100 * float(np.mean(self.f)) if self.f else float("nan")

    @property
    def score(self) -> float:
        """J&F, or J where boundaries are not measured; 0 ... 100."""
        return (self.mean_j + self.mean_f) / 2 if self.f else self.mean_j


@dataclass
class Tally:
    """Scores of one clip, added up as answers come in."""

    clip: Clip
    rule: ScoreRule
    person_seconds: Callable[[Clip, int, int], float] = lambda clip, index, rounds: 0.0
    _found: dict[tuple[int, int], list[tuple[str, float, float]]] = field(default_factory=dict)
    _truth: tuple[int, Masks] | None = None

    def add(self, answer: Answer) -> None:
        """Score one frame of one round."""
        counted = [(row, index) for row, index in enumerate(answer.objects) if answer.t in self._frames[index]]
        if not counted:
            return
        rows, indices = [row for row, _ in counted], [index for _, index in counted]
        truth, prediction = self._read(answer.t)[indices], answer.masks[rows]
        if self.rule.boundary:
            j, f = region_and_boundary(prediction, truth)
        else:
            j = region_similarity(prediction, truth)
            f = np.full_like(j, np.nan)
        shown = np.any(truth | prediction, axis=(1, 2))
        for row, index in enumerate(indices):
            scores = self._found.setdefault((answer.round, index), [])
            if scores or shown[row] or self.rule.counts_from != "appearance":
                scores.append((self.clip.stems[answer.t], float(j[row]), float(f[row])))

    def rows(self) -> tuple[ObjectScore, ...]:
        """A row an object and round; objects that no scored frame shows have none."""
        return tuple(
            ObjectScore(
                sequence=self.clip.name,
                object=self.clip.objects[index].name,
                stems=tuple(stem for stem, _, _ in scores),
                j=tuple(j for _, j, _ in scores),
                f=tuple(f for _, _, f in scores) if self.rule.boundary else (),
                round=number,
                group=self.clip.objects[index].group,
                person_seconds=self.person_seconds(self.clip, index, number),
            )
            for (number, index), scores in sorted(self._found.items())
            if scores
        )

    def __post_init__(self) -> None:
        self._frames = [frozenset(self.rule.frames(item)) for item in self.clip.objects]

    def _read(self, t: int) -> Masks:
        """Truth of frame t; kept for the next call, since rounds may ask for one frame again."""
        if self._truth is None or self._truth[0] != t:
            self._truth = (t, self.clip.truths.read(t))
        return self._truth[1]
