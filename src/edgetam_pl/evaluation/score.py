"""J, F and J&F of any folder of predictions, by the rules of the DAVIS-2017 toolkit and of SA-V's evaluator.

The PNGs of both folders are read, judged by the rule, and compared by the scorer of our own predictions (`scoring.Scores`).
Problems are collected, so that a person hears of all of them at once. Nothing is written into either folder.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgetam_pl.datasets.folders import annotations_folder
from edgetam_pl.evaluation.clips import Masks
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.evaluation.rules import RULES as SET_RULES
from edgetam_pl.evaluation.rules import VOID, SetRule
from edgetam_pl.evaluation.scoring import Key, ObjectScore, Scores
from edgetam_pl.io.folders import files_in, folders_in, numbered
from edgetam_pl.io.label_png import Labels, labels_in, read_labels
from edgetam_pl.io.processes import pool

RULES = {
    "davis16": "one object a sequence: any label of truth or prediction is it (DAVIS 2016)",
    "davis17": "objects are 1 to the highest label of the first truth, each counts on every frame (DAVIS-2017 toolkit)",
    "folder": "objects are the labels that occur in the truth, each counts from the first scored frame that shows it in "
    "truth or prediction (SA-V evaluator, palettes)",
    "sav": "a folder of binary masks an object, first and last annotated frame of each left out (SA-V evaluator)",
}
"""Rules by the names that `evaluation.rules` has for them, in words."""

NAMED = 8
"""So many problems or sequences are listed."""


class AnotherRule(Exception):
    """The truth turned out to be of another kind than its first frames promised."""


@dataclass(frozen=True)
class SequenceScore:
    """All that is known of one sequence. Values are 0 ... 1."""

    name: str
    rows: tuple[ObjectScore, ...]
    num_frames: int
    everywhere: tuple[float, float] | None
    """J and F on all annotated frames, means over objects; None where predictions of unscored frames are missing."""
    problems: tuple[str, ...] = ()
    """Why it cannot be scored, in sentences."""

    def as_json(self) -> dict[str, Any]:
        """J and F with and without the first and last frame."""
        (j_all, f_all), (j_skip, f_skip) = self.everywhere or (None, None), _means(self.rows) or (None, None)
        return {"frames": self.num_frames, "J_all": j_all, "F_all": f_all, "J_skip": j_skip, "F_skip": f_skip}


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
        objects = [
            {"sequence": r.sequence, "object": r.object, "J&F": r.score, "J": r.mean_j, "F": r.mean_f, "frames": len(r.j)}
            for r in report.rows
        ]
        return {
            "rule": self.rule,
            "rule_in_words": RULES[self.rule],
            "frame_rule": self.frames_in_words,
            "scores": {"J&F": report.jf, "J": report.j, "F": report.f},
            "num_objects": len(report.rows),
            "left_out": list(self.left_out),
            "sequences": {item.name: item.as_json() for item in self.sequences},
            "objects": objects,
        }


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
        score = partial(score_sequence, Rule(kind, skip_first_and_last, strict), prediction, masks)
        try:
            results = _in_parallel(score, names, workers)
        except AnotherRule:
            assert attempt + 1 < len(kinds), "the last rule fits any truth"
            continue
        if any(item.problems for item in results):
            raise ValueError(_in_words(results, kind))
        bare = [item.name for item in results if not item.rows]
        if bare and (strict or len(bare) == len(results)):
            raise ValueError(
                f"{', '.join(bare[:NAMED])}: no frame is left without the first and last; --all-frames scores them too."
            )
        return FolderScore(kind, skip_first_and_last, tuple(results), tuple(left_out))
    raise AssertionError("there is always a rule")


# ---------------------------------------------------------------------- one sequence


class Rule(NamedTuple):
    """How sequences are scored."""

    kind: str
    skip_first_and_last: bool
    strict: bool

    @property
    def of_set(self) -> SetRule:
        return SET_RULES[self.kind]


def score_sequence(rule: Rule, predictions: Path, truths: Path, name: str) -> SequenceScore:
    """Score one sequence, frame by frame; problems are collected, not raised."""
    prediction, truth, problems = predictions / name, truths / name, list[str]()
    # folders to compare, by the object that they are about; "" where a PNG holds all objects
    folders = {"": (prediction, truth)}
    if rule.of_set.per_object:
        names = folders_in(truth)
        folders = {item: (prediction / item, truth / item) for item in names}
        problems += _unmatched_objects(prediction, truth, names, strict=rule.strict)
    frames = replace(rule.of_set.score, skip_first_and_last=rule.skip_first_and_last)
    scores, num_frames, complete = Scores(name, frames), 0, True
    for object_name, (predicted, true) in folders.items():
        paths = [*numbered(files_in(true, (".png",))).values()]
        if not paths:
            problems.append(f"{true} holds no masks (PNG)")
        num_frames = max(num_frames, len(paths))
        scored, reader = frozenset(frames.inside(tuple(range(len(paths))))), _Reader(rule, object_name or "1")
        for number, path in enumerate(paths):
            try:
                pair = reader.read(predicted / path.name, path, scored=number in scored)
            except ValueError as error:
                problems.append(str(error).rstrip("."))
                if len(problems) > NAMED:
                    break
                continue
            if pair is None:
                complete = False
            else:
                scores.add(path.stem, *pair, scored=number in scored)
    strangers = scores.never_in_truth()
    if strangers and rule.strict:
        problems.append(f"{prediction} has objects that the truth never shows, label {', '.join(strangers)}")
    rows, everywhere = (
        tuple(row for row in scores.rows(every_frame=every) if row.object not in strangers) for every in (False, True)
    )
    return SequenceScore(name, rows, num_frames, _means(everywhere) if complete else None, tuple(problems))


_Pair = tuple[list[Key], Masks, Masks]
"""What is compared on one frame: O objects, and their masks (O, H, W) in prediction and truth."""


@dataclass
class _Reader:
    """Reads pairs of masks of a folder, judges them by the rule, and says which objects to compare."""

    how: Rule
    name: str
    """Of the object, where a mask is about one."""
    highest: int | None = None
    """Highest label of the first truth."""
    seen: set[int] = field(default_factory=set)
    """Labels the truth has shown."""

    def read(self, prediction: Path, truth: Path, *, scored: bool) -> _Pair | None:
        """The masks of one frame; None where the prediction of an unscored frame is missing.

        Raises:
            ValueError: a mask is missing, unreadable, or does not fit the rule.
            AnotherRule: the truth does not fit it.
        """
        rule, strict = self.how.of_set, self.how.strict
        wanted = read_labels(truth)
        single = rule.binary or rule.per_object
        if rule.binary and int(wanted.max()) not in (0, 1, VOID):
            raise AnotherRule
        if not single:
            self._learn(wanted, truth)
        if prediction.is_file():
            found = read_labels(prediction)
        elif not scored:
            return None
        elif strict:
            raise ValueError(f"there is no prediction {prediction}; every scored frame needs one")
        else:
            found = np.zeros_like(wanted)
        if found.shape != wanted.shape:
            raise ValueError(
                f"{prediction} is {found.shape} and its truth {wanted.shape} (height, width); they must have one size"
            )
        if single:
            if rule.per_object and strict and max(len(labels_in(found)), len(labels_in(wanted))) > 2:
                raise ValueError(
                    f"{prediction} or its truth has more than two values; a mask of one object is black and white"
                )
            return [_key(self.name)], (found != 0)[None], (wanted != 0)[None]
        if strict:
            self._check_labels(prediction, found)
        if rule.first_frame_only:
            labels = list(range(1, (self.highest or 0) + 1))
        else:
            labels = sorted(self.seen.union(labels_in(found)) - {0, VOID})
        each = np.array(labels, dtype=np.uint8 if max(labels, default=0) < 256 else np.uint16)[:, None, None]
        return [_key(str(label)) for label in labels], found == each, wanted == each

    def _learn(self, truth: Labels, path: Path) -> None:
        """Which labels are objects."""
        labels = [label for label in labels_in(truth) if label not in (0, VOID)]
        first_only = self.how.of_set.first_frame_only
        if self.highest is None:
            self.highest = max(labels, default=0)
            if first_only and not labels:
                raise ValueError(f"{path} is a first truth without objects; the rule folder lets objects appear later")
        elif first_only and labels and labels[-1] > self.highest:
            raise AnotherRule
        self.seen.update(labels)

    def _check_labels(self, path: Path, prediction: Labels) -> None:
        highest = int(prediction.max())
        if self.how.of_set.first_frame_only and highest > (self.highest or 0):
            raise ValueError(f"{path} has the label {highest}; the truth's first frame has objects 1 to {self.highest}")
        if highest == VOID:
            raise ValueError(f"{path} has the label {VOID}, which is void; predictions have objects and background only")


def _unmatched_objects(prediction: Path, truth: Path, names: Sequence[str], *, strict: bool) -> Iterable[str]:
    """Folders of objects that one side lacks."""
    if not names:
        yield f"{truth} holds no folders of objects"
    if strict:
        lacking = [name for name in names if not (prediction / name).is_dir()]
        yield from (f"there is no folder {prediction / name}; every object of the truth needs one" for name in lacking)
        unknown = [name for name in folders_in(prediction) if name not in names]
        yield from (f"{prediction / name} is an object that the truth does not have" for name in unknown)


def _key(name: str) -> Key:
    """Numbers in their order, other names before them."""
    return (int(name), name) if name.isdigit() else (-1, name)


def _means(rows: Sequence[ObjectScore]) -> tuple[float, float] | None:
    """Mean J and F over objects, 0 ... 1; None without any."""
    return (float(np.mean([np.mean(r.j) for r in rows])), float(np.mean([np.mean(r.f) for r in rows]))) if rows else None


# ---------------------------------------------------------------------- folders


def _common(prediction: Path, truth: Path, sequences: Sequence[str], *, strict: bool) -> tuple[list[str], list[str]]:
    """Sequences that both folders have, and those that one lacks."""
    predicted, true = set(folders_in(prediction)), set(folders_in(truth))
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
                f"{len(names)} sequences are in {here} and not in {there}: {', '.join(sorted(names)[:NAMED])}"
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
        paths = [*numbered(files_in(truth / name, (".png",))).values()]
        if not paths:
            if folders_in(truth / name):
                return ["sav"]
            raise ValueError(f"{truth / name} holds neither masks (PNG) nor folders of objects.")
        firsts.append(labels_in(read_labels(paths[0])))
    if all(set(labels) <= {0, 1} or set(labels) <= {0, VOID} for labels in firsts):
        return ["davis16", "davis17", "folder"] if all(set(labels) - {0} for labels in firsts) else ["davis16", "folder"]
    return ["davis17", "folder"] if all(set(labels) - {0, VOID} for labels in firsts) else ["folder"]


def _in_parallel(score: Callable[[str], SequenceScore], names: Sequence[str], workers: int) -> list[SequenceScore]:
    """Sequences over processes, in order."""
    count = min(workers or os.cpu_count() or 1, len(names))
    if count <= 1:
        return [score(name) for name in names]
    # forked workers need not import anything again; only numpy runs in them
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with pool(count, multiprocessing.get_context(method)) as executor:
        return list(executor.map(score, names))


def _in_words(results: Sequence[SequenceScore], rule: str) -> str:
    problems = [f"  {item.name}: {words}" for item in results for words in item.problems]
    more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    listed = "\n".join(problems[:NAMED]) + more
    return f"By the rule {rule} ({RULES[rule]}) these cannot be scored:\n{listed}\n--lenient scores what is there."
