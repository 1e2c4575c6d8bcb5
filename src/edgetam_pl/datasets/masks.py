"""Masks of a video by frame: label maps, a folder of label maps for each object, run lengths, or an array."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import files_in
from edgetam_pl.io.label_png import VOID, Labels, labels_in, objects_in, read_labels
from edgetam_pl.io.rle import Rle

Mask = NDArray[np.bool_] | Rle
"""A mask (H, W)."""


class MaskSource(Protocol):
    """Where masks come from."""

    @property
    def annotated(self) -> Sequence[int]:
        """Frames whose masks are known, in order."""
        ...

    def frames_of(self, name: str) -> Sequence[int]:
        """The frames on which this object is annotated, visible or not."""
        ...

    def read(self, t: int) -> dict[str, Mask]:
        """Masks of the visible objects of an annotated frame.

        Raises:
            BadSampleError: unreadable, or not what the layout says.
            ValueError: frame t is not annotated.
        """
        ...

    def fingerprint(self) -> str:
        """Changes when the masks or the names of the objects do."""
        ...


@dataclass(frozen=True)
class LabelMaps:
    """One label map a frame, for all objects; 255 is void. A sequence that shows nothing but 255 is black and white, and has
    one object."""

    paths: Mapping[int, Path]
    """By frame."""
    known: frozenset[str] | None = None
    """All objects that there can be; None: any."""
    max_area: float = math.inf
    """Leave out masks that cover at least this share of the frame."""

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(self.paths)

    def frames_of(self, name: str) -> Sequence[int]:
        return self.annotated

    def read(self, t: int) -> dict[str, Mask]:
        _require(t, self.annotated)
        labels = read_labels(self.paths[t])
        masks = {name: labels == label for name, label in self._named(t, labels).items()}
        if self.max_area < math.inf:
            masks = {name: m for name, m in masks.items() if np.count_nonzero(m) < self.max_area * m.size}
            if not masks:
                share = f"{self.max_area:.0%}"
                raise BadSampleError(Cause.NO_OBJECT, f"{self.paths[t]} marks no object below {share} of the image")
        return dict(masks)

    def fingerprint(self) -> str:
        return _hash_of(self.paths.values())

    def _named(self, t: int, labels: Labels) -> dict[str, int]:
        """Objects by name, with their labels."""
        found = objects_in(labels, self.paths[t])
        if found == (VOID,):
            return {"1": VOID} if self._black_and_white else {}
        if self.known is not None and (strange := [str(label) for label in found if str(label) not in self.known]):
            raise BadSampleError(
                Cause.ANNOTATION, f"{self.paths[t]} shows object {', '.join(strange)}, which meta.json does not list"
            )
        return {str(label): label for label in found}

    @cached_property
    def _black_and_white(self) -> bool:
        """Is there no label but 255 on any frame?"""
        return all(set(labels_in(read_labels(path))) <= {0, VOID} for path in self.paths.values())


@dataclass(frozen=True)
class ObjectFolders:
    """A folder of binary label maps for each object, which may overlap (SA-V)."""

    paths: Mapping[str, Mapping[int, Path]]
    """For each object, by frame."""

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(sorted({t for paths in self.paths.values() for t in paths}))

    def frames_of(self, name: str) -> Sequence[int]:
        return tuple(self.paths[name])

    def read(self, t: int) -> dict[str, Mask]:
        _require(t, self.annotated)
        masks = {name: read_labels(paths[t]) != 0 for name, paths in self.paths.items() if t in paths}
        return {name: mask for name, mask in masks.items() if mask.any()}

    def fingerprint(self) -> str:
        return _hash_of(paths[t] for paths in self.paths.values() for t in paths)


@dataclass(frozen=True)
class RleMasks:
    """Run lengths as COCO writes them, by frame and object; they may overlap."""

    entries: Mapping[int, Mapping[str, Any]]
    """{"size": (H, W), "counts": text or list} each."""
    where: str

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(self.entries)

    def frames_of(self, name: str) -> Sequence[int]:
        return self.annotated

    def read(self, t: int) -> dict[str, Mask]:
        _require(t, self.annotated)
        found = {name: rle.of_coco(raw, f"{self.where}, frame {t}, object {name}") for name, raw in self.entries[t].items()}
        return {name: mask for name, mask in found.items() if mask.area}

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([[t, *self.entries[t].items()] for t in self.entries]).encode()).hexdigest()


@dataclass(frozen=True)
class ArrayMasks:
    """Masks (T, O, H, W) in memory, known on every frame; objects are 1 ... O unless they have names."""

    masks: NDArray[np.bool_]
    names: Sequence[str] | None = None

    @property
    def objects(self) -> Sequence[str]:
        return self.names or [str(o + 1) for o in range(self.masks.shape[1])]

    @property
    def annotated(self) -> range:
        return range(len(self.masks))

    def frames_of(self, name: str) -> Sequence[int]:
        return self.annotated

    def read(self, t: int) -> dict[str, Mask]:
        return {name: mask for name, mask in zip(self.objects, self.masks[t]) if mask.any()}

    def fingerprint(self) -> str:
        return hashlib.sha256(
            f"{self.masks.shape}{self.names or ''}".encode() + np.packbits(self.masks).tobytes()
        ).hexdigest()


def dense(mask: Mask) -> NDArray[np.bool_]:
    """The mask as pixels (H, W)."""
    return rle.decode(*mask) if isinstance(mask, Rle) else mask


def _require(t: int, annotated: Sequence[int]) -> None:
    if t not in annotated:
        known = ", ".join(map(str, annotated[:3])) + (f" ... {annotated[-1]}" if len(annotated) > 3 else "")
        raise ValueError(f"Frame {t} is not annotated; frames {known} are.")


def label_files(folder: Path) -> list[Path]:
    """The label maps of a folder.

    Raises:
        BadSampleError: there are none; JPEGs are no label maps.
    """
    files = files_in(folder, (".png",))
    if not files:
        jpegs = files_in(folder, (".jpg", ".jpeg"))
        reason = f", only JPEG ({jpegs[0].name}), whose compression changes object numbers" if jpegs else ""
        raise BadSampleError(Cause.NO_MASK, f"{folder} holds no masks (.png){reason}")
    return files


def _hash_of(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
