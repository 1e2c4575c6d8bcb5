"""What comes with the package, in `shipped/`: a small tracker with its card, an example clip, pictures to learn from.

`resolve` is the one place that decides which model and weights are meant where somebody named none; `expand` in
commands/compose.py says the same of the words `weights=shipped` and `teacher_weights=shipped`.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetam_pl.io import released

FOLDER = Path(str(importlib.resources.files("edgetam_pl"))) / "shipped"

NAME = "lite"
"""The shipped model: configs/model/lite.yaml."""

WORD = "shipped"
"""What a person writes in the place of a checkpoint: weights=shipped, --weights shipped."""

WEIGHTS, FACTS, CARD = FOLDER / f"{NAME}.pt", FOLDER / f"{NAME}.json", FOLDER / "card.md"
"""The weights, what was measured of them, and the model card; `python -m edgetam_pl.commands.ship` writes all three."""

EXAMPLE, PICTURES = FOLDER / "example", FOLDER / "pictures"
"""A real clip (JPEGImages/chair, Annotations/chair) and COCO pictures (images, masks), each with its ATTRIBUTION.md."""

OTHERS = (
    "edgetam, the name of the official edgetam.pt (downloaded once from github.com/facebookresearch/EdgeTAM), or a "
    "checkpoint of your own training"
)
"""Weights that people can name instead."""


def is_here() -> bool:
    """Does this copy of the package hold the shipped weights?"""
    return WEIGHTS.is_file()


def weights() -> Path:
    """The file of the shipped weights.

    Raises:
        ValueError: this copy of the package has none.
    """
    if not is_here():
        raise ValueError(
            f"This copy of EdgeTAM-PL holds no shipped weights ({WEIGHTS} is missing), and none were named. Give --weights "
            f"FILE (weights=FILE): {OTHERS}; or --weights random to try an architecture."
        )
    return WEIGHTS


def facts() -> dict[str, Any]:
    """What was measured of the shipped weights: `scores` by data set and prompt, bytes, sha256, date.

    Raises:
        ValueError: there are no shipped weights, or nothing was measured of them.
    """
    weights()
    if not FACTS.is_file():
        raise ValueError(
            f"{FACTS} is missing beside {WEIGHTS.name}; make both with python -m edgetam_pl.commands.ship RUN/weights.pt."
        )
    return json.loads(FACTS.read_text())


def line() -> str:
    """The shipped model in one line: what it is, its J&F, where better ones are.

    Raises:
        ValueError: there is none.
    """
    scores: Mapping[str, Mapping[str, float]] = facts()["scores"]
    by_mask = [f"{name.removesuffix('-mask')} {row['jf']:.1f}" for name, row in scores.items() if name.endswith("-mask")]
    score = f"J&F given the first mask: {', '.join(by_mask)}" if by_mask else "not scored yet"
    return (
        f"Weights: the shipped tracker {NAME} ({score}; CC BY-NC 4.0, {CARD}). More accurate: --weights edgetam, "
        "downloaded from github.com/facebookresearch/EdgeTAM, or your own training."
    )


def resolve(model: str | None, weights_given: str | Path | None, *, quiet: bool = False) -> tuple[str | None, str]:
    """(model, weights) that are meant, where one or both were not named.

    Without weights it is the shipped tracker, and one line on stderr says so. Weights without a model: None, since most
    files record theirs (`compose.model_for`).

    Args:
        model: a name of the zoo, or None.
        weights_given: a file, `random`, `shipped`, the name of a release (`edgetam`), or None.
        quiet: say nothing.

    Raises:
        ValueError: the shipped weights are meant and are not there, another model was named with them, or a release cannot
            be downloaded.
    """
    given = str(weights_given or "")
    if released.is_name(given):
        return model or given, str(released.fetched(given))
    if given not in ("", WORD):
        return model, given
    if model not in (None, NAME):
        raise ValueError(
            f"No weights were given for {model}. Give --weights FILE: {OTHERS}; or --weights random to try the "
            f"architecture. The shipped weights are of {NAME}: name neither model nor weights to use them."
        )
    path = weights()
    if not quiet:
        print(line(), file=sys.stderr, flush=True)
    return NAME, str(path)
