"""`edgetam before-after`: what a training was worth. Two checkpoints on the same videos, and no tracker beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgetam_pl.build import RANDOM
from edgetam_pl.commands.compare import Comparison
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import EvaluateConfig
from edgetam_pl.config.choices import Flags
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.evaluation.runner import run
from edgetam_pl.io.atomic import write_json, write_text
from edgetam_pl.weights import recorded_config

REPEAT = "first mask repeated"


def main(argv: list[str]) -> int:
    """Evaluate both and compare; returns the exit status.

    Raises:
        ValueError: a checkpoint, a word or a folder that `edgetam evaluate` refuses.
    """
    parser = Flags(
        prog="edgetam before-after",
        description="Evaluate two checkpoints on the same videos, and the first mask repeated, and write one page, "
        "OUT/report.html. Finished parts are not done again.",
    )
    parser.add_argument("before", metavar="BEFORE", help="the checkpoint that training began with")
    parser.add_argument("after", metavar="AFTER", help="the one that it made")
    parser.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="words of `edgetam evaluate`: root=MINE split=test ..."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/before-after"), help="folder (default: runs/before-after)")
    args = parser.parse_intermixed_args(argv)  # words may stand before and after options
    page = compare(args.before, args.after, args.words, args.out)
    print(f"page: {page}")
    return 0


def compare(before: str, after: str, words: Sequence[str], out: Path) -> Path:
    """Write OUT/report.html and OUT/comparison.json, with the evaluations beside them; returns the page."""
    asked = [
        _composed([*words, f"weights={before}"], out / "before"),
        _composed([*words, f"weights={after}"], out / "after"),
        _composed([*words, "protocol=repeat"], out / "repeat"),
    ]
    for cfg in asked[:2]:
        if cfg.weights != RANDOM:
            recorded_config(cfg.weights)  # a name that is mistyped is said now, not after the first evaluation
    old, new, held = map(_evaluated, asked)
    repeated = held.score
    comparison = Comparison.of(
        replace(old, title=f"before: {old.title}"), replace(new, title=f"after: {new.title}")
    )  # their conditions agree, for the words are the same
    write_json(out / "comparison.json", {**comparison.as_json(), "repeat": repeated}, indent=1)
    print(f"{comparison.text(limit=20)}\n{REPEAT}: {repeated:.1f}")
    return write_text(out / "report.html", comparison.page({REPEAT: repeated}))


def _composed(words: Sequence[str], out: Path) -> EvaluateConfig:
    return composed(EvaluateConfig, command="evaluate", overrides=[*words, f"out={out}"])[0]


def _evaluated(cfg: EvaluateConfig) -> Report:
    report = run(cfg)
    if report is None:
        raise ValueError("before-after compares in one process; for several use workers=N, not torchrun.")
    return report
