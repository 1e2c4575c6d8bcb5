"""Labelme: a json for each image, with polygons, rectangles, circles and painted masks."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import annotated_image, picture_of, read_json, wanted
from edgetam_pl.datasets.frames import ArrayFrames, FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, root_of
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import files_below
from edgetam_pl.io.pictures import PICTURE_FILES, decode_picture

_IGNORED = "__ignore__"
"""Labelme's label of pixels that nobody is asked about."""
_CORNERS = 256
"""Of the polygon that stands for a circle."""


@dataclass(frozen=True)
class Labelme(Layout):
    """The json files of a folder and of those below it. Objects are numbered in their order; shapes of one label and one
    group_id are one object. A shape without area (line, point) is left out and counted."""

    root: Path
    split: str = ""
    categories: str = ""
    max_area: float = 1.0
    kind: str = "image"

    def present(self) -> list[str]:
        files = [f"{folder}{name}" for folder, names in files_below(self.root) for name in names]
        names = sorted(name[:-5] for name in files if name.lower().endswith(".json"))
        if self.categories:  # an unknown one is refused before anything is built
            shapes = (shape for name in names for shape in read_json(self._file(name)).get("shapes", ()))
            wanted(self.categories, (str(shape.get("label")) for shape in shapes))
        return names

    def expected(self) -> str:
        return f"json of Labelme in {self.root} or below it"

    def incomplete(self) -> dict[str, str]:
        found = {}
        for folder, files in files_below(self.root):
            pictures = {Path(name).stem for name in files if Path(name).suffix.lower() in PICTURE_FILES}
            for name in sorted(name[:-5] for name in files if name.lower().endswith(".json")):
                if name not in pictures:  # it may lie elsewhere, which only the json knows
                    try:
                        self.clip(folder + name)
                    except BadSampleError as error:
                        found |= {folder + name: error.message} if error.cause is Cause.IMAGE else {}
        return found

    def clip(self, name: str) -> AnnotatedClip:
        path = self._file(name)
        raw = read_json(path)
        try:
            written, data, shapes = str(raw["imagePath"]), raw.get("imageData"), list(raw["shapes"])
            picture = picture_of(written, [path.parent])
            if picture is not None:
                frames = FileFrames({0: picture})
            elif data:
                frames = ArrayFrames(decode_picture(base64.b64decode(data), path)[None])
            else:
                raise BadSampleError(Cause.IMAGE, f"{path}: there is no {written}, and imageData is empty")
            size = (int(raw["imageHeight"]), int(raw["imageWidth"])) if raw.get("imageHeight") else frames.size
            objects, faults = self._objects(shapes, size, str(path))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, BadSampleError):
                raise
            raise BadSampleError(Cause.ANNOTATION, f"{path} is not a json of Labelme ({error!r:.80})") from error
        return annotated_image(name, frames, size, objects, str(path), self.max_area, faults)

    def _file(self, name: str) -> Path:
        return self.root / f"{name}.json"

    def _objects(
        self, shapes: list[dict[str, Any]], size: tuple[int, int], where: str
    ) -> tuple[list[tuple[str, list[Any]]], list[BadSampleError]]:
        """(number, segmentations) of each object, and the shapes that are none."""
        parts: dict[tuple[Any, ...], list[Any]] = {}
        faults = []
        chosen = wanted(self.categories, self.categories.split(","))
        for number, shape in enumerate(shapes):
            label, group = str(shape["label"]), shape.get("group_id")
            if label == "_background_" or (chosen is not None and label not in chosen):
                continue
            place = f"{where}: shape {number} ({label})"
            if label == _IGNORED:
                faults.append(BadSampleError(Cause.VOID, f"{place} is to be ignored"))
                continue
            try:
                segmentation = _segmentation(shape, size, place)
            except BadSampleError as error:
                faults.append(error)
            else:
                key = ("alone", number) if group is None else (label, group)
                parts.setdefault(key, []).append(segmentation)
        return [(str(number), some) for number, some in enumerate(parts.values(), 1)], faults


def _segmentation(shape: dict[str, Any], size: tuple[int, int], where: str) -> Any:
    """A shape as COCO's segmentation.

    Raises:
        BadSampleError: it has no area, or its mask does not lie in the image.
    """
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], np.float64)  # (n, 2) of x, y
    if kind == "mask":
        return _painted(shape["mask"], points, size, where)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle":
        middle, rim = points
        turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        points = middle + np.hypot(*(rim - middle)) * np.column_stack([np.cos(turn), np.sin(turn)])
    elif kind != "polygon":
        raise BadSampleError(Cause.NO_MASK, f"{where} is a {kind}, which has no area")
    return [points.reshape(-1).tolist()]


def _painted(data: str, points: np.ndarray, size: tuple[int, int], where: str) -> dict[str, Any]:
    """The run lengths of a mask that lies with its corner at the first point."""
    part = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_GRAYSCALE)
    x, y = (int(value) for value in points.min(axis=0))
    if part is None or min(x, y) < 0 or y + part.shape[0] > size[0] or x + part.shape[1] > size[1]:
        raise BadSampleError(
            Cause.MASK, f"{where}: its mask cannot be read, or does not lie in {size[0]} x {size[1]} pixels"
        )
    whole = np.zeros(size, bool)
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part > 0
    return {"size": list(size), "counts": rle.encode(whole)}


def open_layout(config: ShardsConfig) -> Labelme:
    """NAME.json beside its image, or beside images in another folder that imagePath names; in any depth of folders."""
    return Labelme(root_of(config), config.split, config.categories, config.max_area)
