"""What every reader gives, which of its videos are wanted, and masks as data sets store them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError, Cause
from edgetam_pl.io import rle

Mask = NDArray[np.bool_] | str
"""A mask (H, W), or its compressed counts at the frame's size."""


@dataclass(frozen=True)
class Frame:
    """One annotated frame."""

    number: int  # in the original video
    image: Path | NDArray[np.uint8]  # a JPEG or PNG file, or pixels (H, W, 3) RGB
    masks: Mapping[str, Mask]  # visible objects only, by name
    size: tuple[int, int] | None = None  # (H, W) of the masks; None where they are arrays


class Reader(Protocol):
    """A data set. `frames` may be called in any process, for any item, in any order."""

    @property
    def kind(self) -> str:
        """video | image"""
        ...

    def items(self) -> list[str]:
        """Names of all videos or images, in a fixed order."""
        ...

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        """The annotated frames of one video in order. A frame that cannot be used comes as its error."""
        ...


@dataclass(frozen=True)
class Listing:
    """Which of the videos or images that are there are wanted."""

    source: str
    root: Path
    split: str = ""

    @staticmethod
    def of_config(config: ShardsConfig, root: Path, split: str | None = None) -> Listing:
        return Listing(config.source, root, config.split if split is None else split)

    def of(self, present: list[str], *, what: str) -> list[str]:
        """The wanted names, in the list's order, or all.

        Raises:
            ValueError: there is no such list, or nothing of it is there.
        """
        if not present:
            raise ValueError(
                f"There is no {what}; source={self.source} can make nothing of this folder. See docs/shards.md."
            )
        if not self.split:
            return present
        by_name = {name.rsplit("/", 1)[-1]: name for name in present}
        names = [by_name[name] for name in self._names() if name in by_name]
        if not names:
            raise ValueError(f"Nothing in {self.root} is named in split={self.split}.")
        return names

    def _names(self) -> list[str]:
        split = self.split
        places = [
            Path(split),
            self.root / split,
            *sorted(self.root.glob(f"ImageSets/*/{split}.txt")),
            self.root / f"{split}.txt",
        ]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            raise ValueError(
                f"split={split} names no list: no such file, no ImageSets/*/{split}.txt and no {split}.txt in {self.root}."
            )
        lines = (line.strip() for line in path.read_text().splitlines())
        return [line.split()[0].removesuffix(".mp4").removesuffix(".jpg") for line in lines if line]


def read_labels(path: Path) -> dict[str, NDArray[np.bool_]]:
    """The objects of a label PNG: {"1": mask (H, W), ...}, empty ones left out.

    Raises:
        BadSampleError: no image, or a colour image without palette.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in {"P", "L", "1", "I", "I;16"}:
                raise BadSampleError(
                    Cause.ANNOTATION, f"{path} is a colour image ({image.mode}); a palette PNG of object numbers is expected"
                )
            black_and_white = image.mode in {"1", "L"}
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError(Cause.MASK, f"{path} is no readable PNG ({error})") from error
    labels = labels.astype(np.uint16)
    values = np.flatnonzero(np.bincount(labels.reshape(-1)))
    if black_and_white and set(values.tolist()) <= {0, 1, 255}:
        mask = labels > 0
        return {"1": mask} if mask.any() else {}
    return {str(value): labels == value for value in values.tolist() if value not in (0, 255)}


def checked(masks: Mapping[str, Any], where: str, *, size: tuple[int, int] | None = None) -> dict[str, Mask]:
    """COCO RLE dictionaries to compressed counts, empty masks left out.

    Raises:
        BadSampleError: MASK or MASK_SIZE.
    """
    found: dict[str, Mask] = {}
    for name, raw in masks.items():
        try:
            own = (int(raw["size"][0]), int(raw["size"][1]))
            counts = raw["counts"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadSampleError(Cause.MASK, f"{where}: a mask is no COCO RLE ({error!r:.60})") from error
        if size is not None and own != size:
            raise BadSampleError(Cause.MASK_SIZE, f"{where}: mask {own[0]} x {own[1]}, image {size[0]} x {size[1]}")
        if isinstance(counts, list):  # COCO's uncompressed form
            if not all(isinstance(n, int) and n >= 0 for n in counts) or not counts:
                raise BadSampleError(Cause.MASK, f"{where}: uncompressed counts that are not natural numbers")
            counts = rle.to_counts(np.array(counts, np.int64))
        if rle.area(rle.parse(counts, own)):
            found[name] = counts
    return found
