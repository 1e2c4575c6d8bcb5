"""What is known of the public data sets: licence, source, layout and how many videos there should be (shards/recipes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from edgetam_pl.io import resources


@dataclass(frozen=True)
class Recipe:
    """A file of shards/recipes."""

    title: str
    licence: str
    page: str
    """Where the data set is described and downloaded."""
    layout: str
    command: str
    """The command that builds its shards."""
    settings: Mapping[str, Any]
    """Keys of `edgetam shards` that `recipe=NAME` stands for; words of the user win."""
    splits: Mapping[str, Mapping[str, int]]
    """Split -> videos or images that its publisher names. Empty split: the whole folder."""
    about: str = field(default="")

    @staticmethod
    def read(name: str) -> Recipe:
        """Raises ValueError where there is no such recipe."""
        path = resources.find(resources.RECIPES, f"{name}.yaml")
        if path is None:
            raise ValueError(
                f"There is no recipe named {name}; known ones: {', '.join(resources.names(resources.RECIPES))}."
            )
        return Recipe(**yaml.safe_load(path.read_text()))

    def heading(self) -> str:
        """What a person should know before building."""
        return f"{self.title}. Licence: {self.licence.rstrip('.')}. Source: {self.page}"

    def compared(self, found: int, *, split: str) -> str:
        """How many videos or images there should be, and how many were found."""
        counts = self.splits.get(split)
        if not counts:
            where = f"split={split}" if split else "this folder"
            return f"{found} found; how many {where} should have is not known."
        ((unit, expected),) = counts.items()
        if found == expected:
            return f"{found} {unit}, as published."
        difference = f"{expected - found} missing" if found < expected else f"{found - expected} more than there should be"
        return f"{found} {unit} found, {expected} published: {difference}. Is everything downloaded and unpacked?"
