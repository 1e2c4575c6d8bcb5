"""`edgetam score PRED GT`: J, F and J&F of any folder of predictions, printed worst first, and as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from edgetam_pl.config.choices import Flags
from edgetam_pl.evaluation.score import RULES, score_folders
from edgetam_pl.io.atomic import write_json


def main(argv: list[str]) -> int:
    """Score a folder of predictions, print a table, perhaps write a JSON.

    Raises:
        ValueError: what does not fit, each thing named, with the rule.
    """
    parser = Flags(
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
        write_json(args.json, result.as_json(), indent=1)
    print(f"rule {result.rule}: {RULES[result.rule]}; {result.frames_in_words}")
    if result.left_out:
        print(f"left out, in one folder only: {', '.join(result.left_out)}", file=sys.stderr)
    print(result.report.table(limit=args.worst))
    return 0
