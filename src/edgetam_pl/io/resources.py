"""Files that come with the package (configurations, experiments, recipes), and a user's own, which win.

The one copy lies at the top of the repository. A wheel holds it below `edgetam_pl/` (setup.py); a clone is read where it is.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

CONFIGS, EXPERIMENTS, RECIPES = "configs", "experiments", "shards/recipes"
"""The folders, relative to the top of the repository, to the package in a wheel, and to a user's working directory."""


def shipped(folder: str) -> Path:
    """Our folder of that name: package data in a wheel, the top of the repository in a clone."""
    packaged = Path(str(importlib.resources.files("edgetam_pl"))) / folder
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / folder


def folders(folder: str) -> list[Path]:
    """Where files of that folder are looked for, first the user's own below the working directory, then ours."""
    ours, theirs = shipped(folder), Path.cwd() / folder
    return [theirs, ours] if theirs.is_dir() and theirs.resolve() != ours.resolve() else [ours]


def find(folder: str, name: str) -> Path | None:
    """The file `name` of that folder, the user's own before ours; None where neither exists."""
    return next((path for root in folders(folder) if (path := root / name).is_file()), None)


def names(folder: str, below: str = "") -> list[str]:
    """What can be named in a folder: the stems of its YAML files, the user's and ours."""
    return sorted({path.stem for root in folders(folder) for path in (root / below).glob("*.yaml")})


def shadowing() -> list[Path]:
    """The user's own files that stand in the place of one of ours, relative to the working directory."""
    return sorted(
        Path(folder) / path.relative_to(theirs)
        for folder in (CONFIGS, EXPERIMENTS, RECIPES)
        for theirs in folders(folder)[:-1]
        for path in theirs.rglob("*.yaml")
        if (shipped(folder) / path.relative_to(theirs)).is_file()
    )
