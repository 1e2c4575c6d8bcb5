"""`edgetam score PRED GT`: J, F and J&F of any folder of predictions, by the rules of the DAVIS-2017 toolkit and of SA-V's
evaluator. Nothing is written into either folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetam_pl.evaluation.reporting.report import Report, write_whole
from edgetam_pl.evaluation.rules import VOID
from edgetam_pl.evaluation.score_sequence import NAMED, AnotherRule, Problem, SequenceScore, Task, masks_in, score_sequence
from edgetam_pl.evaluation.sources import numbered
from edgetam_pl.evaluation.video_sets import annotations_folder
from edgetam_pl.io.label_png import labels_in, read_labels

RULES = {
    "davis16": "one object a sequence: any label of truth or prediction is it (DAVIS 2016)",
    "davis17": "objects are 1 to the highest label of the first truth, each counts on every frame (DAVIS-2017 toolkit)",
    "folder": "objects are the labels that occur in the truth, each counts from the first scored frame that shows it in "
    "truth or prediction (SA-V evaluator, palettes)",
    "sav": "a folder of binary masks an object, first and last annotated frame of each left out (SA-V evaluator)",
}


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
        tasks = [Task(name, prediction / name, masks / name, kind, skip_first_and_last, strict) for name in names]
        try:
            results = _in_parallel(tasks, workers)
        except AnotherRule:
            assert attempt + 1 < len(kinds), "the last rule fits any truth"
            continue
        problems = [problem for item in results for problem in item.problems]
        if problems:
            raise ValueError(_in_words(problems, kind))
        bare = [item.name for item in results if not item.rows]
        if bare and (strict or len(bare) == len(results)):
            raise ValueError(
                f"{', '.join(bare[:NAMED])}: no frame is left without the first and last; --all-frames scores them too."
            )
        return FolderScore(kind, skip_first_and_last, tuple(results), tuple(left_out))
    raise AssertionError("there is always a rule")


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
        paths = numbered(masks_in(truth / name))
        if not paths:
            if any(path.is_dir() for path in (truth / name).iterdir()):
                return ["sav"]
            raise ValueError(f"{truth / name} holds neither masks (PNG) nor folders of objects.")
        firsts.append(labels_in(read_labels(paths[0])))
    if all(set(labels) <= {0, 1} or set(labels) <= {0, VOID} for labels in firsts):
        return ["davis16", "davis17", "folder"] if all(set(labels) - {0} for labels in firsts) else ["davis16", "folder"]
    return ["davis17", "folder"] if all(set(labels) - {0, VOID} for labels in firsts) else ["folder"]


def _in_parallel(tasks: list[Task], workers: int) -> list[SequenceScore]:
    """Sequences over processes, in order."""
    count = min(workers or os.cpu_count() or 1, len(tasks))
    if count <= 1:
        return [score_sequence(task) for task in tasks]
    # forked workers need not import anything again; only numpy runs in them
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(score_sequence, tasks))


def _in_words(problems: Sequence[Problem], rule: str) -> str:
    listed = "\n".join(f"  {problem.sequence}: {problem.words}" for problem in problems[:NAMED])
    more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return f"By the rule {rule} ({RULES[rule]}) these cannot be scored:\n{listed}{more}\n--lenient scores what is there."


def _sequence_json(item: SequenceScore) -> dict[str, Any]:
    nothing = (None, None)
    (j_all, f_all), (j_skip, f_skip) = item.everywhere or nothing, item.inside or nothing
    return {"frames": item.num_frames, "J_all": j_all, "F_all": f_all, "J_skip": j_skip, "F_skip": f_skip}
