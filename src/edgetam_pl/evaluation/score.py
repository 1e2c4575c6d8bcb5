"""`edgetam score PRED GT`: J, F and J&F of any folder of predictions, by the rules of the DAVIS-2017 toolkit and of SA-V's
evaluator. Nothing is written into either folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgetam_pl.evaluation.datasets import VOID, annotations_folder
from edgetam_pl.evaluation.label_png import Labels, labels_in, read_labels
from edgetam_pl.evaluation.report import Report, write_whole
from edgetam_pl.evaluation.scoring import ObjectScore
from edgetam_pl.evaluation.sources import numbered
from edgetam_pl.metrics.jf import region_and_boundary

RULES = {
    "davis16": "one object a sequence: any label of truth or prediction is it (DAVIS 2016)",
    "davis17": "objects are 1 to the highest label of the first truth, each counts on every frame (DAVIS-2017 toolkit)",
    "folder": "objects are the labels that occur in the truth, each counts from the first scored frame that shows it in "
    "truth or prediction (SA-V evaluator, palettes)",
    "sav": "a folder of binary masks an object, first and last annotated frame of each left out (SA-V evaluator)",
}
_NAMED = 8
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


@dataclass(frozen=True)
class FolderScore:
    """The score of a folder of predictions."""

    rule: str
    skip_first_and_last: bool
    sequences: tuple[SequenceScore, ...]
    left_out: tuple[str, ...] = field(default=())
    """Sequences that only one of the folders has; never any in strict mode."""

    @property
    def report(self) -> Report:
        return Report(
            title=f"score, rule {self.rule}",
            rows=tuple(row for item in self.sequences for row in item.rows),
            conditions={"protocol": "score", "rule": self.rule, "frame_rule": self.frames_in_words},
        )

    @property
    def frames_in_words(self) -> str:
        return "all annotated frames but the first and last" if self.skip_first_and_last else "all annotated frames"

    def as_json(self) -> dict[str, Any]:
        """Plain values: `scores` and `objects` in 0 ... 100 by the rule, `sequences` in 0 ... 1 with and without the first
        and last frame."""
        report = self.report
        return {
            "rule": self.rule,
            "rule_in_words": RULES[self.rule],
            "frame_rule": self.frames_in_words,
            "scores": {"J&F": report.jf, "J": report.j, "F": report.f},
            "num_objects": len(report.rows),
            "left_out": list(self.left_out),
            "sequences": {item.name: _sequence_json(item) for item in self.sequences},
            "objects": [
                {
                    "sequence": r.sequence,
                    "object": r.object,
                    "J&F": r.score,
                    "J": r.mean_j,
                    "F": r.mean_f,
                    "frames": len(r.j),
                }
                for r in report.rows
            ],
        }


def main(argv: list[str]) -> int:
    """Score a folder of predictions, print a table, perhaps write a JSON."""
    parser = argparse.ArgumentParser(
        prog="edgetam score",
        description="J, F and J&F of a folder of predictions, ours or anyone's: <PRED>/<sequence>/<frame>.png with a "
        "palette, or <PRED>/<sequence>/<object>/<frame>.png. GT is a data set's root or its folder of annotations.",
        epilog="Rules: " + "; ".join(f"{name}: {words}" for name, words in RULES.items()) + ". auto: sav for folders of "
        "objects, davis16 where no truth has a second label, davis17 where all labels are on first frames, else folder.",
    )
    parser.add_argument("prediction", type=Path, metavar="PRED", help="folder of predictions")
    parser.add_argument("truth", type=Path, metavar="GT", help="folder of the truth")
    parser.add_argument("--rule", choices=["auto", *RULES], default="auto", help="which rule to score by (default: auto)")
    parser.add_argument("--all-frames", action="store_true", help="score the first and the last annotated frame too")
    parser.add_argument(
        "--lenient", action="store_true",
        help="score the sequences that both have, take missing predictions for empty ones, ignore extra labels",
    )  # fmt: skip
    parser.add_argument("--sequences", nargs="+", default=[], metavar="NAME", help="these sequences alone")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores here")
    parser.add_argument("--worst", type=int, default=20, metavar="N", help="rows to print, worst first (default: 20)")
    args = parser.parse_args(argv)
    result = score_folders(
        args.prediction, args.truth, rule=args.rule, skip_first_and_last=not args.all_frames, strict=not args.lenient,
        sequences=args.sequences, workers=args.workers,
    )  # fmt: skip
    if args.json is not None:
        write_whole(args.json, json.dumps(result.as_json(), indent=1).encode())
    print(f"rule {result.rule}: {RULES[result.rule]}; {result.frames_in_words}")
    if result.left_out:
        print(f"left out, in one folder only: {', '.join(result.left_out)}", file=sys.stderr)
    print(result.report.table(limit=args.worst))
    return 0


def score_folders(
    prediction: Path,
    truth: Path,
    *,
    rule: str = "auto",
    skip_first_and_last: bool = True,
    strict: bool = True,
    sequences: Sequence[str] = (),
    workers: int = 0,
) -> FolderScore:
    """Score all sequences of a folder.

    Args:
        prediction: <sequence>/<frame>.png, or <sequence>/<object>/<frame>.png.
        truth: the same below it, or below its Annotations.
        rule: one of `RULES`, or auto.
        strict: anything that does not fit is an error; otherwise sequences that one side lacks are left out, missing
            predictions are empty ones, and labels that the truth does not know are ignored.
        sequences: these alone; () for all.
        workers: processes; 0: one a core, 1: this one.

    Raises:
        ValueError: what does not fit, each thing named, with the rule.
    """
    prediction, truth = Path(prediction), Path(truth)
    for folder, role in ((prediction, "predictions"), (truth, "truth")):
        if not folder.is_dir():
            raise ValueError(f"There is no folder of {role} at {folder}.")
    masks, prediction = annotations_folder(truth), annotations_folder(prediction)
    names, left_out = _common(prediction, masks, sequences, strict=strict)
    kinds = _kinds(masks, names) if rule == "auto" else [rule]
    for attempt, kind in enumerate(kinds):
        tasks = [_Task(name, prediction / name, masks / name, kind, skip_first_and_last, strict) for name in names]
        try:
            results = _in_parallel(tasks, workers)
        except _AnotherRule:
            assert attempt + 1 < len(kinds), "the last rule fits any truth"
            continue
        problems = [problem for item in results for problem in item.problems]
        if problems:
            raise ValueError(_in_words(problems, kind))
        bare = [item.name for item in results if not item.rows]
        if bare and (strict or len(bare) == len(results)):
            raise ValueError(
                f"{', '.join(bare[:_NAMED])}: no frame is left without the first and last; --all-frames scores them too."
            )
        return FolderScore(kind, skip_first_and_last, tuple(results), tuple(left_out))
    raise AssertionError("there is always a rule")


# ---------------------------------------------------------------------- one sequence


class _AnotherRule(Exception):
    """The truth turned out to be of another kind than its first frames promised."""


class _Task(NamedTuple):
    name: str
    prediction: Path
    truth: Path
    rule: str
    skip_first_and_last: bool
    strict: bool


def score_sequence(task: _Task) -> SequenceScore:
    """Score one sequence, frame by frame; problems are collected, not raised."""
    tracks = _tracks_of_folders(task) if task.rule == "sav" else {"": (task.prediction, task.truth)}
    problems = list(_unmatched_objects(task, tracks)) if task.rule == "sav" else []
    found: dict[str, _Found] = {}
    num_frames, whole = 0, True
    for object_name, (predicted, true) in tracks.items():
        paths = numbered(_masks_in(true))
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
                if len(problems) > _NAMED:
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

    task: _Task
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
                raise _AnotherRule
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
            raise _AnotherRule
        self.seen.update(labels)

    def _shown(self, prediction: Labels) -> tuple[int, ...]:
        return tuple(sorted(self.seen.union(labels_in(prediction)) - {0, VOID}))

    def _check_labels(self, path: Path, prediction: Labels) -> None:
        highest = int(prediction.max())
        if self.task.rule == "davis17" and highest > (self.known or 0):
            raise ValueError(f"{path} has the label {highest}; the truth's first frame has objects 1 to {self.known}")
        if highest == VOID:
            raise ValueError(f"{path} has the label {VOID}, which is void; predictions have objects and background only")


def _compare(task: _Task, found: dict[str, _Found], object_name: str, pair: _Pair, stem: str, *, scored: bool) -> None:
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
    task: _Task, found: Mapping[str, _Found]
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


# ---------------------------------------------------------------------- folders


def _common(prediction: Path, truth: Path, sequences: Sequence[str], *, strict: bool) -> tuple[list[str], list[str]]:
    """Sequences that both folders have, and those that one lacks."""
    predicted, true = (
        {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        for folder in (prediction, truth)
    )
    if not true:
        raise ValueError(f"{truth} holds no sequences: expected a folder of masks for each.")
    if sequences:
        unknown = [name for name in sequences if name not in true]
        if unknown:
            raise ValueError(f"{truth} has no sequence {', '.join(unknown)}.")
        predicted, true = predicted & set(sequences), set(sequences)
    left_out = sorted(predicted ^ true)
    if left_out and strict:
        raise ValueError(
            "; ".join(
                f"{len(names)} sequences are in {here} and not in {there}: {', '.join(sorted(names)[:_NAMED])}"
                for names, here, there in ((true - predicted, truth, prediction), (predicted - true, prediction, truth))
                if names
            )
            + ". The folders must have the same sequences; --lenient scores those that both have."
        )
    if not predicted & true:
        raise ValueError(f"{prediction} and {truth} have no sequence in common.")
    return sorted(predicted & true), left_out


def _kinds(truth: Path, names: Iterable[str]) -> list[str]:
    """Rules that may fit, the most particular first, by the look of first frames."""
    firsts = []
    for name in names:
        paths = numbered(_masks_in(truth / name))
        if not paths:
            if any(path.is_dir() for path in (truth / name).iterdir()):
                return ["sav"]
            raise ValueError(f"{truth / name} holds neither masks (PNG) nor folders of objects.")
        firsts.append(labels_in(read_labels(paths[0])))
    if all(set(labels) <= {0, 1} or set(labels) <= {0, VOID} for labels in firsts):
        return ["davis16", "davis17", "folder"] if all(set(labels) - {0} for labels in firsts) else ["davis16", "folder"]
    return ["davis17", "folder"] if all(set(labels) - {0, VOID} for labels in firsts) else ["folder"]


def _tracks_of_folders(task: _Task) -> dict[str, tuple[Path, Path]]:
    """Folders of each object; None where there are no predictions of it."""
    names = sorted(path.name for path in task.truth.iterdir() if path.is_dir())
    return {name: (task.prediction / name, task.truth / name) for name in names if not name.startswith(".")}


def _unmatched_objects(task: _Task, tracks: Mapping[str, tuple[Path, Path]]) -> Iterable[Problem]:
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


def _masks_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith(".")]


def _in_parallel(tasks: list[_Task], workers: int) -> list[SequenceScore]:
    """Sequences over processes, in order."""
    count = min(workers or os.cpu_count() or 1, len(tasks))
    if count <= 1:
        return [score_sequence(task) for task in tasks]
    # forked workers need not import anything again; only numpy runs in them
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(score_sequence, tasks))


def _in_words(problems: Sequence[Problem], rule: str) -> str:
    listed = "\n".join(f"  {problem.sequence}: {problem.words}" for problem in problems[:_NAMED])
    more = f"\n  and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return f"By the rule {rule} ({RULES[rule]}) these cannot be scored:\n{listed}{more}\n--lenient scores what is there."


def _sequence_json(item: SequenceScore) -> dict[str, Any]:
    nothing = (None, None)
    (j_all, f_all), (j_skip, f_skip) = item.everywhere or nothing, item.inside or nothing
    return {"frames": item.num_frames, "J_all": j_all, "F_all": f_all, "J_skip": j_skip, "F_skip": f_skip}


def _means(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float] | None:
    return (float(np.mean([j for j, _ in pairs])), float(np.mean([f for _, f in pairs]))) if pairs else None


def _as_number(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdigit() else (-1, name)
