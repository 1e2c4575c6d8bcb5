"""One sequence of `edgetam score`: its masks are read, judged by the rule, and compared. Problems are collected, so that a
person hears of all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgetam_pl.evaluation.rules import VOID
from edgetam_pl.evaluation.scoring import ObjectScore
from edgetam_pl.evaluation.sources import numbered
from edgetam_pl.io.label_png import Labels, labels_in, read_labels
from edgetam_pl.metrics.jf import region_and_boundary

NAMED = 8
"""So many problems are listed."""


class Problem(NamedTuple):
    """Why a sequence cannot be scored, in a sentence."""

    sequence: str
    words: str


@dataclass(frozen=True)
class SequenceScore:
    """All that is known of one sequence. Values are 0 ... 1."""

    name: str
    rows: tuple[ObjectScore, ...]
    num_frames: int
    everywhere: tuple[float, float] | None
    """J and F on all annotated frames, means over objects; None where predictions of unscored frames are missing."""
    inside: tuple[float, float] | None
    """J and F without the first and last frame."""
    problems: tuple[Problem, ...] = ()


class AnotherRule(Exception):
    """The truth turned out to be of another kind than its first frames promised."""


class Task(NamedTuple):
    """A sequence, where its masks are, and how to score it."""

    name: str
    prediction: Path
    truth: Path
    rule: str
    skip_first_and_last: bool
    strict: bool


def score_sequence(task: Task) -> SequenceScore:
    """Score one sequence, frame by frame; problems are collected, not raised."""
    tracks = _tracks_of_folders(task) if task.rule == "sav" else {"": (task.prediction, task.truth)}
    problems = list(_unmatched_objects(task, tracks)) if task.rule == "sav" else []
    found: dict[str, _Found] = {}
    num_frames, whole = 0, True
    for object_name, (predicted, true) in tracks.items():
        paths = numbered(masks_in(true))
        num_frames = max(num_frames, len(paths))
        if not paths:
            problems.append(Problem(task.name, f"{true} holds no masks (PNG)"))
        reader = _Reader(task)
        for number, path in enumerate(paths):
            scored = not task.skip_first_and_last or 0 < number < len(paths) - 1
            try:
                pair = reader.read(predicted / path.name, path, scored=scored)
                if pair is None:
                    whole = False
                else:
                    _compare(task, found, object_name, pair, path.stem, scored=scored)
            except ValueError as error:
                problems.append(Problem(task.name, str(error).rstrip(".")))
                if len(problems) > NAMED:
                    break
    strangers = [name for name, item in found.items() if task.rule == "folder" and not item.in_truth]
    if strangers and task.strict:
        labels = ", ".join(sorted(strangers, key=_as_number))
        problems.append(Problem(task.name, f"{task.prediction} has objects that the truth never shows, label {labels}"))
    rows, everywhere, inside = _summed(task, found)
    return SequenceScore(task.name, rows, num_frames, everywhere if whole else None, inside, tuple(problems))


class _Pair(NamedTuple):
    prediction: Labels
    truth: Labels
    objects: tuple[int, ...]
    """Labels to compare; 0 stands for all of them at once."""


@dataclass
class _Found:
    """Scores of one object so far."""

    stems: list[str] = field(default_factory=list)
    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)
    in_truth: bool = False


@dataclass
class _Reader:
    """Reads pairs of masks of a sequence and judges them by the rule."""

    task: Task
    known: int | None = None
    """Highest label of the first truth (davis17)."""
    seen: set[int] = field(default_factory=set)
    """Labels the truth has shown (folder)."""

    def read(self, prediction: Path, truth: Path, *, scored: bool) -> _Pair | None:
        """None where the prediction of an unscored frame is missing."""
        rule, strict = self.task.rule, self.task.strict
        wanted = read_labels(truth)
        found = self._prediction(prediction, wanted, scored=scored)
        if found is None:
            if rule in ("davis17", "folder"):
                self._learn(wanted, truth)
            return None
        if found.shape != wanted.shape:
            raise ValueError(
                f"{prediction} is {found.shape} and its truth {wanted.shape} (height, width); they must have one size"
            )
        if rule in ("davis16", "sav"):
            if rule == "davis16" and int(wanted.max()) not in (0, 1, VOID):
                raise AnotherRule
            if rule == "sav" and strict and max(len(labels_in(found)), len(labels_in(wanted))) > 2:
                raise ValueError(
                    f"{prediction} or its truth has more than two values; a mask of one object is black and white"
                )
            return _Pair(found, wanted, (0,))
        self._learn(wanted, truth)
        objects = tuple(range(1, (self.known or 0) + 1)) if rule == "davis17" else self._shown(found)
        if strict:
            self._check_labels(prediction, found)
        return _Pair(found, wanted, objects)

    def _prediction(self, path: Path, truth: Labels, *, scored: bool) -> Labels | None:
        if path.is_file():
            return read_labels(path)
        if not scored:
            return None
        if self.task.strict:
            raise ValueError(f"there is no prediction {path}; every scored frame needs one")
        return np.zeros_like(truth)

    def _learn(self, truth: Labels, path: Path) -> None:
        """Which labels are objects."""
        labels = [label for label in labels_in(truth) if label not in (0, VOID)]
        if self.known is None:
            self.known = max(labels, default=0)
            if self.task.rule == "davis17" and not labels:
                raise ValueError(f"{path} is a first truth without objects; the rule folder lets objects appear later")
        elif self.task.rule == "davis17" and labels and labels[-1] > self.known:
            raise AnotherRule
        self.seen.update(labels)

    def _shown(self, prediction: Labels) -> tuple[int, ...]:
        return tuple(sorted(self.seen.union(labels_in(prediction)) - {0, VOID}))

    def _check_labels(self, path: Path, prediction: Labels) -> None:
        highest = int(prediction.max())
        if self.task.rule == "davis17" and highest > (self.known or 0):
            raise ValueError(f"{path} has the label {highest}; the truth's first frame has objects 1 to {self.known}")
        if highest == VOID:
            raise ValueError(f"{path} has the label {VOID}, which is void; predictions have objects and background only")


def _compare(task: Task, found: dict[str, _Found], object_name: str, pair: _Pair, stem: str, *, scored: bool) -> None:
    """Add one frame to the scores of its objects."""
    for label in pair.objects:
        if label == 0:
            prediction, truth = pair.prediction != 0, pair.truth != 0
        else:
            prediction, truth = pair.prediction == label, pair.truth == label
        entry = found.setdefault(object_name or str(label or 1), _Found())
        if task.rule == "folder":
            here = bool(truth.any())
            entry.in_truth = entry.in_truth or here
            if scored and not (here or prediction.any() or any(entry.scored)):
                continue  # has not appeared yet
        j, f = region_and_boundary(prediction, truth)
        entry.stems.append(stem)
        entry.j.append(float(j))
        entry.f.append(float(f))
        entry.scored.append(scored)


def _summed(
    task: Task, found: Mapping[str, _Found]
) -> tuple[tuple[ObjectScore, ...], tuple[float, float] | None, tuple[float, float] | None]:
    """Rows by the rule, and means over objects with and without the first and last frame."""
    counted = {name: item for name, item in found.items() if task.rule != "folder" or item.in_truth}
    rows, everywhere, inside = [], [], []
    for name in sorted(counted, key=_as_number):
        item = counted[name]
        everywhere.append((np.mean(item.j), np.mean(item.f)))
        chosen = [i for i, scored in enumerate(item.scored) if scored]
        if not chosen:
            continue
        j, f = tuple(item.j[i] for i in chosen), tuple(item.f[i] for i in chosen)
        rows.append(ObjectScore(task.name, name, tuple(item.stems[i] for i in chosen), j, f))
        inside.append((np.mean(j), np.mean(f)))
    return tuple(rows), _means(everywhere), _means(inside)


def _tracks_of_folders(task: Task) -> dict[str, tuple[Path, Path]]:
    """Folders of each object; None where there are no predictions of it."""
    names = sorted(path.name for path in task.truth.iterdir() if path.is_dir())
    return {name: (task.prediction / name, task.truth / name) for name in names if not name.startswith(".")}


def _unmatched_objects(task: Task, tracks: Mapping[str, tuple[Path, Path]]) -> Iterable[Problem]:
    if not tracks:
        yield Problem(task.name, f"{task.truth} holds no folders of objects")
    if not task.strict:
        return
    for name, (predicted, _) in tracks.items():
        if not predicted.is_dir():
            yield Problem(task.name, f"there is no folder {task.prediction / name}; every object of the truth needs one")
    for path in sorted(task.prediction.iterdir()):
        if path.is_dir() and path.name not in tracks:
            yield Problem(task.name, f"{path} is an object that the truth does not have")


def masks_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith(".")]


def _means(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float] | None:
    return (float(np.mean([j for j, _ in pairs])), float(np.mean([f for _, f in pairs]))) if pairs else None


def _as_number(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdigit() else (-1, name)
