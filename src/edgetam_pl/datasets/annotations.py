"""Images whose masks are written in json, as run lengths or polygons: what COCO, SA-1B and Labelme have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgetam_pl.datasets.frames import OrderedFrames
from edgetam_pl.datasets.layout import AnnotatedClip
from edgetam_pl.datasets.masks import RleMasks
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.files import read_file
from edgetam_pl.io.folders import files_in
from edgetam_pl.io.rle import Rle

_MARKS = {"labelme": '"shapes"', "coco": '"images"'}
"""A word near the beginning of the json files of a source."""


def read_json(path: Path) -> Any:
    """What a json holds.

    Raises:
        BadSampleError: unreadable, or no json.
    """
    data = read_file(path, Cause.ANNOTATION)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(Cause.ANNOTATION, f"{path} cannot be read as json ({error!r:.80})") from error


def annotated_image(
    name: str,
    frames: OrderedFrames,
    size: tuple[int, int],
    objects: Iterable[tuple[str, Sequence[Any]]],
    where: str,
    max_area: float,
    faults: Sequence[BadSampleError] = (),
) -> AnnotatedClip:
    """An image of `size` (H, W) with its objects: a name, and segmentations as COCO's that are joined. A broken one costs
    its object and joins the faults.

    Raises:
        BadSampleError: NO_OBJECT, where no mask between nothing and `max_area` of the image is left.
    """
    masks: dict[str, Rle] = {}
    found = list(faults)
    for key, parts in objects:
        place = f"{where}, annotation {key}"
        try:
            if key in masks:
                raise BadSampleError(Cause.ANNOTATION, f"{place}: another one of this image has that id")
            masks[key] = rle.union([rle.of_segmentation(part, size, place) for part in parts])
        except BadSampleError as error:
            found.append(error)
    kept = {key: mask._asdict() for key, mask in masks.items() if 0 < mask.area < max_area * size[0] * size[1]}
    if not kept and max_area <= 1:
        reason = f"; {found[0].message}" if found else ""
        raise BadSampleError(Cause.NO_OBJECT, f"{where} has no mask between 0 and {max_area:.0%} of the image{reason}")
    return AnnotatedClip(name, frames, RleMasks({0: kept}, where), tuple(found))


def picture_of(written: str, folders: Iterable[Path]) -> Path | None:
    """The picture that an annotation calls `written`, with / or \\ between folders: there below one of these folders.
    A place on another machine (C:\\a.jpg, /data/a.jpg, ../a.jpg) counts as its last name where nothing is there."""
    place, places = Path(written.replace("\\", "/")), list(folders)
    tried = [folder / place for folder in places]
    if place.is_absolute() or place.parts[:1] == ("..",) or ":" in written[:2]:
        tried += [folder / place.name for folder in places]
    return next((path for path in tried if path.is_file()), None)


def wanted(categories: str, known: Iterable[str]) -> frozenset[str] | None:
    """The categories that the key `categories` names, with commas between; None: all.

    Raises:
        ValueError: one of them is not known.
    """
    names = frozenset(word.strip() for word in categories.split(",") if word.strip())
    there = set(known)
    if strange := sorted(names - there):
        raise ValueError(f"categories={categories}: there is no {', '.join(strange)}; there are {', '.join(sorted(there))}.")
    return names or None


def source_for(place: Path) -> str:
    """The source that reads a json, or the first json of a folder, as a sentence to add; empty where none is known."""
    path = place if place.is_file() else next(iter(files_in(place, (".json",))), None)
    if path is None:
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        start = file.read(1 << 16)  # COCO's whole file may be half a gigabyte
    source = next((name for name, mark in _MARKS.items() if mark in start), "")
    return f" {path.name} looks like one that source={source} reads." if source else ""
