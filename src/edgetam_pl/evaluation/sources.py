"""Where frames and masks of data sets come from: files of frames, palettes, folders of objects, run lengths."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from edgetam_pl.evaluation.clips import ClipObject, Frame, Masks
from edgetam_pl.io.label_png import Labels, read_labels


@dataclass(frozen=True)
class FileFrames:
    """Frames in files, in the order given."""

    paths: tuple[Path, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(path.stem for path in self.paths)

    @property
    def size(self) -> tuple[int, int]:
        return _size_of(self.paths[0])

    def read(self, t: int) -> Frame:
        return read_frame(self.paths[t])

    def fingerprint(self) -> str:
        """Names and sizes of the files; their pixels are not read for it."""
        said = "\n".join(f"{path.name} {path.stat().st_size}" for path in self.paths)
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class PaletteTruths:
    """One palette PNG a frame, for all objects."""

    objects: tuple[ClipObject, ...]
    labels: tuple[int, ...]
    """The label of each object; 0 stands for every label, where all of them are one object."""
    paths: Mapping[int, Path]
    """By frame."""
    size: tuple[int, int]

    def read(self, t: int) -> Masks:
        if t not in self.paths:
            return np.zeros((len(self.labels), *self.size), dtype=bool)
        found = read_sized(self.paths[t], self.size)
        masks = np.zeros((len(self.labels), *self.size), dtype=bool)
        for mask, label in zip(masks, self.labels):
            mask[:] = found != 0 if label == 0 else found == label
        return masks

    def fingerprint(self) -> str:
        return _hash_of([self.paths[t] for t in sorted(self.paths)])


@dataclass(frozen=True)
class FolderTruths:
    """A folder of binary PNGs for each object (SA-V)."""

    objects: tuple[ClipObject, ...]
    paths: tuple[Mapping[int, Path], ...]
    """For each object, by frame."""
    size: tuple[int, int]

    def read(self, t: int) -> Masks:
        masks = np.zeros((len(self.paths), *self.size), dtype=bool)
        for mask, paths in zip(masks, self.paths):
            if t in paths:
                mask[:] = read_sized(paths[t], self.size) != 0
        return masks

    def fingerprint(self) -> str:
        return _hash_of([paths[t] for paths in self.paths for t in sorted(paths)])


@dataclass(frozen=True)
class RleTruths:
    """Masks of one image in a JSON as Segment Anything's: run lengths, which may overlap."""

    path: Path
    size: tuple[int, int]

    @cached_property
    def _annotations(self) -> list[dict]:
        try:
            return json.loads(self.path.read_text())["annotations"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} has no annotations as in SA-1B ({error!r}).") from error

    @property
    def objects(self) -> tuple[ClipObject, ...]:
        return tuple(ClipObject(str(i), 0, (0,)) for i in range(1, len(self._annotations) + 1))

    def read(self, t: int) -> Masks:
        masks = np.zeros((len(self._annotations), *self.size), dtype=bool)
        for mask, annotation in zip(masks, self._annotations):
            counts = annotation["segmentation"]
            if tuple(counts["size"]) != self.size:
                raise ValueError(f"{self.path}: a mask of {tuple(counts['size'])} for an image of {self.size}.")
            mask[:] = rle.decode(counts).astype(bool)
        return masks

    def fingerprint(self) -> str:
        return _hash_of([self.path])


def read_frame(path: Path) -> Frame:
    """(H, W, 3) uint8 RGB, as it lies in the file: no turning by EXIF, since masks are not turned.

    Raises:
        ValueError: unreadable; the file is named.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"{path} cannot be read as an image; it may be damaged or missing.")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@lru_cache(maxsize=4096)
def _size_of(path: Path) -> tuple[int, int]:
    height, width = read_frame(path).shape[:2]
    return height, width


def numbered(paths: Sequence[Path]) -> list[Path]:
    """Files in the order of the last number in their names (SAM 2 release: integer stems); names without one go by name."""

    def key(path: Path) -> tuple[int, str]:
        numbers = re.findall(r"\d+", path.stem)
        return (int(numbers[-1]) if numbers else -1, path.stem)

    return sorted(paths, key=key)


def read_sized(path: Path, size: tuple[int, int]) -> Labels:
    """Labels of a mask that must have the size of its frame.

    Raises:
        ValueError: unreadable, or another size; the file is named.
    """
    labels = read_labels(path)
    if labels.shape != size:
        raise ValueError(f"{path} is {labels.shape} and its frame {size} (height, width); they must have one size.")
    return labels


def _hash_of(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
