"""`edgetam before-after`: what a training was worth. Two checkpoints on the same videos, and no tracker beside them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgetam_pl.commands.compare import Comparison
from edgetam_pl.commands.compose import composed
from edgetam_pl.config import EvaluateConfig
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.evaluation.runner import run
from edgetam_pl.io.atomic import write_json, write_text

REPEAT = "first mask repeated"


def main(argv: list[str]) -> int:
    """Evaluate both and compare; returns the exit status.

    Raises:
        ValueError: a checkpoint, a word or a folder that `edgetam evaluate` refuses.
    """
    parser = argparse.ArgumentParser(
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
    old = _evaluated([*words, f"weights={before}"], out / "before")
    new = _evaluated([*words, f"weights={after}"], out / "after")
    repeated = _evaluated([*words, "protocol=repeat"], out / "repeat").score
    comparison = Comparison.of(
        replace(old, title=f"before: {old.title}"), replace(new, title=f"after: {new.title}")
    )  # their conditions agree, for the words are the same
    write_json(out / "comparison.json", {**comparison.as_json(), "repeat": repeated}, indent=1)
    print(f"{comparison.text(limit=20)}\n{REPEAT}: {repeated:.1f}")
    return write_text(out / "report.html", comparison.page({REPEAT: repeated}))


def _evaluated(words: Sequence[str], out: Path) -> Report:
    report = run(composed(EvaluateConfig, command="evaluate", overrides=[*words, f"out={out}"])[0])
    if report is None:
        raise ValueError("before-after compares in one process; for several use workers=N, not torchrun.")
    return report
