"""What every layout of data sets gives: names, and the frames and masks of each video or image."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets import layouts
from edgetam_pl.datasets.frames import OrderedFrames
from edgetam_pl.datasets.masks import Mask, MaskSource
from edgetam_pl.io.errors import BadSampleError
from edgetam_pl.io.folders import lines_of, list_in, listed

SOURCES = tuple(sorted(module.name for module in pkgutil.iter_modules(layouts.__path__)))
"""Names of the layouts."""


@dataclass(frozen=True)
class AnnotatedFrame:
    """One frame with its masks."""

    number: int  # in the original video
    image: Path | NDArray[np.uint8]  # a JPEG or PNG file, or pixels (H, W, 3) RGB
    masks: dict[str, Mask]  # visible objects only, by name


@dataclass(frozen=True)
class AnnotatedClip:
    """A video, or an image as a video of one frame. Nothing of it is read before it is asked for."""

    name: str
    frames: OrderedFrames
    masks: MaskSource
    faults: tuple[BadSampleError, ...] = ()
    """What of it cannot be used: a frame without a mask, a mask without a frame."""

    def annotated_frames(self) -> Iterator[AnnotatedFrame | BadSampleError]:
        """The annotated frames in order, each decoded once. A frame that cannot be used comes as its error."""
        yield from self.faults
        numbers = self.frames.numbers
        for t, image in self.frames.each(self.masks.annotated):
            if isinstance(image, BadSampleError):
                yield image
                continue
            try:
                masks = self.masks.read(t)
            except BadSampleError as error:
                yield error
            else:
                yield AnnotatedFrame(numbers[t], image, masks)


class Layout:
    """A data set in its folder. Clips may be opened in any process and in any order."""

    kind: str = "video"
    """video | image"""
    root: Path = Path()
    split: str = ""
    """A list of names (`io.folders.list_in`); empty: all that are there."""

    def present(self) -> list[str]:
        """All videos or images that are there, in a fixed order."""
        raise NotImplementedError

    def clip(self, name: str) -> AnnotatedClip:
        """One video or image.

        Raises:
            BadSampleError: nothing of it can be used.
        """
        raise NotImplementedError

    def expected(self) -> str:
        """What was looked for, in words."""
        raise NotImplementedError

    def incomplete(self) -> dict[str, str]:
        """Names that lack frames or masks, and what they lack; some of them may be present."""
        return {}

    def unused(self) -> list[str]:
        """Why files are not among `present`, although they look like data: a sentence each."""
        present = set(self.present())
        return [lack for name, lack in self.incomplete().items() if name not in present]

    def names(self) -> list[str]:
        """The wanted names, in the list's order, or all.

        Raises:
            ValueError: there is no such list, or nothing of it is there.
        """
        return self._chosen[0]

    def not_found(self) -> list[str]:
        """Lines of the list that name nothing that is there."""
        return self._chosen[1]

    @cached_property
    def _chosen(self) -> tuple[list[str], list[str]]:
        present = self.present()
        if not present:
            raise ValueError(f"There is no {self.expected()}. See docs/shards.md for the layouts.")
        if not self.split:
            return present, []
        path = list_in(self.root, self.split)
        names, missing = listed(present, lines_of(path))
        if not names:
            raise ValueError(f"Nothing in {self.root} is named in split={self.split} ({path}).")
        return names, missing


def open_layout(config: ShardsConfig) -> Layout:
    """The layout that `config.source` names, over the folder `config.root`.

    Raises:
        ValueError: an unknown source, or a folder that is not what the source expects.
    """
    if config.source not in SOURCES:
        raise ValueError(f"source={config.source} is unknown; use one of {', '.join(SOURCES)}.")
    layout = importlib.import_module(f"{layouts.__name__}.{config.source}").open_layout(config)
    if config.categories and not hasattr(layout, "categories"):
        raise ValueError(f"categories={config.categories}: source={config.source} knows no categories; leave the key out.")
    return layout


def root_of(config: ShardsConfig) -> Path:
    """The folder of the data set. Raises ValueError where none is given or it is no folder."""
    if not config.root:
        raise ValueError(f"source={config.source} needs root=FOLDER, where the data set lies.")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"root={config.root} is not a folder.")
    return root


def folder_in(root: Path, name: str, config: ShardsConfig) -> Path:
    """A folder that the layout cannot do without. Raises ValueError where it is missing."""
    if not (root / name).is_dir():
        raise ValueError(
            f"{root} has no folder {name}; source={config.source} expects one. A folder without masks cannot be used: see "
            f"docs/shards.md for the layouts."
        )
    return root / name
