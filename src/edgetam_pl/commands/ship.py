"""Make the shipped weights from a run: `python -m edgetam_pl.commands.ship RUN/weights.pt --scores DIR`.

Writes `shipped/lite.pt` (matrices in fp16), `lite.json` (what was measured) and `card.md` (the model card, made from it).
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from edgetam_pl.build import load_model
from edgetam_pl.commands.compose import model_config
from edgetam_pl.config.choices import Flags
from edgetam_pl.evaluation.reporting.report import Report
from edgetam_pl.io import shipped
from edgetam_pl.io.atomic import atomic_path, write_json, write_text
from edgetam_pl.io.environment import VERSION
from edgetam_pl.io.hashing import sha256_of
from edgetam_pl.io.tables import markdown_table
from edgetam_pl.training.record import record_of

SILENT = ("logger", "trainer.enable_progress_bar", "checkpoint_every", "keep_checkpoints")
"""Beginnings of words that change no weights."""

MOST_BYTES = 10_000_000
"""The shipped file's largest size: a wheel stays a small download."""


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit status.

    Raises:
        ValueError: weights that do not fit the model or fp16, or that are too large; a folder without reports.
    """
    parser = Flags(prog="python -m edgetam_pl.commands.ship", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights.pt of a run of model=lite")
    parser.add_argument("--scores", type=Path, help="folder of evaluations, DIR/SET-PROMPT/report.json")
    parser.add_argument("--beside", nargs="*", default=[], metavar="NAME=DIR", help="other scores for the card's table")
    parser.add_argument("--note", default="", help="a sentence for the card, e.g. how long the training took")
    parser.add_argument("--out", type=Path, default=shipped.FOLDER, help="folder to write to (default: the package's)")
    args = parser.parse_args(argv)
    beside = {name: scores_in(Path(folder)) for name, _, folder in (word.partition("=") for word in args.beside)}
    scores = scores_in(args.scores) if args.scores else {}
    print(ship(args.weights, args.out, scores=scores, beside=beside, note=args.note))
    return 0


def ship(
    source: Path,
    out: Path,
    *,
    scores: Mapping[str, Mapping[str, float]],
    beside: Mapping[str, Mapping[str, Mapping[str, float]]],
    note: str = "",
) -> Path:
    """Write the three files into `out`; returns that of the weights.

    Raises:
        ValueError: the file is not of the shipped model, holds values that fp16 does not, or comes out too large.
    """
    cfg = model_config(shipped.NAME)
    model = load_model(cfg, source)  # strict: what does not fit is refused here
    content = torch.load(source, map_location="cpu", weights_only=True)
    key = "model" if "model" in content else "state_dict"
    target = out / shipped.WEIGHTS.name
    with atomic_path(target) as draft:
        # tensors alone: a card names folders of the machine that trained, and is refused at another image size
        torch.save({key: halved(content[key])}, draft)
        if draft.stat().st_size > MOST_BYTES:
            raise ValueError(f"{target} would have {draft.stat().st_size:,} bytes; at most {MOST_BYTES:,} are shipped.")
    facts = {
        "commands": commands_of(source),
        "bytes": target.stat().st_size,
        "sha256": sha256_of(target),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": cfg.image_size,
        "version": VERSION,
        "date": datetime.date.today().isoformat(),
        "note": note,
        "scores": scores,
        "beside": beside,
    }
    write_json(out / shipped.FACTS.name, facts)
    write_text(out / shipped.CARD.name, card(facts))
    return target


def halved(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, matrices in fp16. Vectors stay as they are: they are small, and BatchNorm's variances
    may lie outside fp16's range.

    Raises:
        ValueError: a matrix holds a value that fp16 does not have.
    """
    halves = {}
    for name, tensor in state.items():
        half = tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        if not torch.isfinite(half).all():
            raise ValueError(f"{name} holds values that are not finite in fp16 (largest: {tensor.abs().max():g}).")
        halves[name] = half.contiguous().clone()  # a copy of its own: a view would bring its whole storage along
    return halves


def commands_of(weights: Path) -> list[str]:
    """The trainings that led to these weights, the first one first, as their run.json records them; [] where none does.

    Words that say nothing of the result are left out, and of paths outside the working directory only the name is kept.
    """
    run = record_of(weights.parent)
    if not run:
        return []
    begun_with = run["config"].get("weights")
    words = [word for word in run["command"] if not word.startswith(SILENT)]
    shown = [
        f"{key}={Path(value).name}" if Path(value).is_absolute() else word
        for word in words
        for key, _, value in [word.partition("=")]
    ]
    line = " ".join(["edgetam", *(shlex.quote(word) for word in shown)])
    # runs of one working directory name one another relative to it: runs/real/b begins with runs/real/a/weights.pt
    root = weights.resolve().parents[len(Path(run["config"]["out"]).parts)]
    return [*(commands_of(root / begun_with) if begun_with else []), line]


def scores_in(folder: Path) -> dict[str, dict[str, float]]:
    """{SET-PROMPT: J&F, J, F and counts} of the evaluations in a folder, rounded to a tenth.

    Raises:
        ValueError: there is none.
    """
    reports = {path.parent.name: Report.read(path) for path in sorted(folder.glob("*/report.json"))}
    if not reports:
        raise ValueError(f"{folder} holds no evaluation; expected SET-PROMPT/report.json in it, as real_cpu.sh leaves them.")
    return {
        name: {
            **{key: round(getattr(report, key), 1) for key in ("jf", "j", "f")},
            "sequences": len(report.sequences),
            "objects": len(report.rows),
        }
        for name, report in reports.items()
    }


def card(facts: Mapping[str, Any]) -> str:
    """The model card, Markdown, from what `lite.json` holds."""
    environment = Environment(
        loader=PackageLoader("edgetam_pl.commands"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    others = facts["beside"]
    rows = [
        [
            name,
            f"{row['sequences']:.0f}",
            f"{row['objects']:.0f}",
            _score(row),
            *(_score(o.get(name)) for o in others.values()),
        ]
        for name, row in facts["scores"].items()
    ]
    table = markdown_table(["set and prompt", "videos", "objects", shipped.NAME, *others], rows).rstrip()
    return environment.get_template("card.md.jinja").render(name=shipped.NAME, facts=facts, rows=rows, table=table)


def _score(row: Mapping[str, float] | None) -> str:
    return f"{row['jf']:.1f} ({row['j']:.1f} / {row['f']:.1f})" if row else ""


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"ship: {error}")
