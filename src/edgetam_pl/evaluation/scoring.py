"""From masks to scores: which frames count, and J and F of every object on them (rules of DAVIS and SA-V).

One scorer for all: `Scores` compares masks frame by frame, wherever they come from. `Tally` feeds it the answers of a
protocol, `evaluation.score` the PNGs of two folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

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
        return self.inside(frames)

    def inside(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        """The scored ones of an object's annotated frames."""
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
    shown: tuple[bool, ...] = ()
    """Does the truth show the object on the frame? Empty in reports of earlier versions."""
    answered: tuple[bool, ...] = ()
    """Has the answer a pixel of it?"""
    repeated: tuple[float, float] | None = None
    """Mean J and F of its first mask on every frame, 0 ... 100 (F is NaN where boundaries are not measured); None where that
    was not measured."""

    @property
    def unanswered(self) -> tuple[int, int]:
        """On how many of the frames that show the object the answer is empty, and how many these are."""
        return sum(show and not answer for show, answer in zip(self.shown, self.answered)), sum(self.shown)

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


def mean_j_by_frame(rows: Iterable[ObjectScore]) -> dict[str, float]:
    """J of each frame of one sequence and round, 0 ... 1: the mean over the objects that count on it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for stem, j in zip(row.stems, row.j):
            found.setdefault(stem, []).append(j)
    return {stem: sum(values) / len(values) for stem, values in found.items()}


Key = tuple[int, str]
"""An object: its place in the order of rows, and its name."""


@dataclass
class _Track:
    """What one object scored in one round, a value a frame; F is empty where boundaries are not measured."""

    stems: list[str] = field(default_factory=list)
    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    answered: list[bool] = field(default_factory=list)
    begun: bool = False
    """A scored frame counts already."""
    in_truth: bool = False
    """A compared frame of the truth shows the object; known where objects count from their appearance."""


@dataclass
class Scores:
    """J and F of the objects of one sequence, added up frame by frame."""

    sequence: str
    rule: ScoreRule
    _tracks: dict[tuple[int, Key], _Track] = field(default_factory=dict)

    def add(
        self, stem: str, objects: Sequence[Key], prediction: Masks, truth: Masks, *, round: int = 0, scored: bool = True
    ) -> None:
        """Compare one frame.

        Args:
            stem: the frame's name.
            objects: O keys.
            prediction: masks (O, H, W) bool.
            truth: the same.
            round: what the prediction stands for, as in `Answer`.
            scored: whether the rule counts this frame; what does not count is measured all the same.
        """
        if self.rule.boundary:
            j, f = region_and_boundary(prediction, truth)
        else:
            j, f = region_similarity(prediction, truth), None
        for row, key in enumerate(objects):
            track = self._tracks.setdefault((round, key), _Track())
            shown, answered = bool(truth[row].any()), bool(prediction[row].any())
            if self.rule.counts_from == "appearance":
                track.in_truth = track.in_truth or shown
                if scored and not (track.begun or shown or answered):
                    continue  # has not appeared yet
            track.begun = track.begun or scored
            track.stems.append(stem)
            track.scored.append(scored)
            track.shown.append(shown)
            track.answered.append(answered)
            track.j.append(float(j[row]))
            if f is not None:
                track.f.append(float(f[row]))

    def rows(self, *, every_frame: bool = False) -> list[ObjectScore]:
        """A row an object and round, over the frames that count, or over all that were measured; without frames, none."""
        rows = []
        for (number, (_, name)), track in sorted(self._tracks.items()):
            chosen = [i for i, scored in enumerate(track.scored) if scored or every_frame]
            if chosen:
                stems, j = tuple(track.stems[i] for i in chosen), tuple(track.j[i] for i in chosen)
                f = tuple(track.f[i] for i in chosen) if track.f else ()
                shown, answered = tuple(track.shown[i] for i in chosen), tuple(track.answered[i] for i in chosen)
                rows.append(ObjectScore(self.sequence, name, stems, j, f, number, shown=shown, answered=answered))
        return rows

    def never_in_truth(self) -> list[str]:
        """Objects that predictions have and the truth never shows, where objects count from their appearance."""
        late = self.rule.counts_from == "appearance"
        return [name for (_, (_, name)), track in sorted(self._tracks.items()) if late and not track.in_truth]


@dataclass
class Tally:
    """Scores of one clip, added up as answers of a protocol come in."""

    clip: Clip
    rule: ScoreRule
    person_seconds: Callable[[Clip, int, int], float] = lambda clip, index, rounds: 0.0
    _truth: tuple[int, Masks] | None = None

    def __post_init__(self) -> None:
        self._scores = Scores(self.clip.name, self.rule)
        self._keys = [(index, item.name) for index, item in enumerate(self.clip.objects)]
        self._frames = [frozenset(self.rule.frames(item)) for item in self.clip.objects]

    def add(self, answer: Answer) -> None:
        """Score one frame of one round."""
        counted = [(row, index) for row, index in enumerate(answer.objects) if answer.t in self._frames[index]]
        if counted:
            rows, indices = [row for row, _ in counted], [index for _, index in counted]
            truth, keys = self._read(answer.t)[indices], [self._keys[index] for index in indices]
            self._scores.add(self.clip.stems[answer.t], keys, answer.masks[rows], truth, round=answer.round)

    def rows(self) -> tuple[ObjectScore, ...]:
        """A row an object and round; objects that no scored frame shows have none."""
        index = {name: index for index, name in self._keys}
        return tuple(
            replace(
                row,
                group=self.clip.objects[index[row.object]].group,
                person_seconds=self.person_seconds(self.clip, index[row.object], row.round),
            )
            for row in self._scores.rows()
        )

    def _read(self, t: int) -> Masks:
        """Truth of frame t; kept for the next call, since rounds may ask for one frame again."""
        if self._truth is None or self._truth[0] != t:
            self._truth = (t, self.clip.truths.read(t))
        return self._truth[1]
