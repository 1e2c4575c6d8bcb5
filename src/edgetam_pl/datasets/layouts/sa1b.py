"""SA-1B: images with one json each, a run-length mask an annotation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.frames import FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, root_of
from edgetam_pl.datasets.masks import RleMasks
from edgetam_pl.io import rle
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import files_below, files_in


@dataclass(frozen=True)
class SA1B(Layout):
    """SA-1B: sa_000001.jpg with sa_000001.json, in any depth of folders; or images/ apart from the json files."""

    root: Path
    split: str = ""
    max_area: float = 1.0
    """Masks that cover this share of the image or more are left out."""
    kind: str = "image"

    def present(self) -> list[str]:
        apart = {path.stem for path in files_in(self.root / "images", (".jpg",))}
        found: list[str] = []  # millions of names are strings, not objects
        for folder, names in files_below(self.root):
            pictures = {name[:-4] for name in names if name.lower().endswith(".jpg")}
            stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
            found += [folder + stem for stem in stems if stem in pictures or stem in apart]
        return sorted(found)

    def expected(self) -> str:
        return f"image in {self.root} with its annotation; SA-1B is pairs of sa_1.jpg and sa_1.json"

    def clip(self, name: str) -> AnnotatedClip:
        path = self.root / f"{name}.json"
        places = [folder / f"{path.stem}{s}" for folder in (path.parent, self.root / "images") for s in (".jpg", ".JPG")]
        image = next((place for place in places if place.is_file()), None)
        if image is None:
            raise BadSampleError(Cause.IMAGE, f"{path} has no image: neither {path.stem}.jpg in its folder nor in images/")
        return read_annotations(name, path, image, self.max_area)


def read_annotations(name: str, path: Path, image: Path, max_area: float) -> AnnotatedClip:
    """An image with the masks of a json as SA-1B's. A broken mask costs the mask, a broken file the image.

    Raises:
        BadSampleError: the json is not one of SA-1B.
    """
    try:
        raw = json.loads(path.read_text())
        size = (int(raw["image"]["height"]), int(raw["image"]["width"]))
        annotations = {str(entry["id"]): entry["segmentation"] for entry in raw["annotations"]}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BadSampleError(Cause.ANNOTATION, f"{path} is not an SA-1B annotation ({error!r:.80})") from error
    masks: dict[str, Any] = {}
    faults = []
    for key, entry in annotations.items():
        where = f"{path}, annotation {key}"
        try:
            mask = rle.of_coco(entry, where)
            if mask.size != size:
                wrong = f"{where}: mask {mask.size[0]} x {mask.size[1]}, image {size[0]} x {size[1]}"
                raise BadSampleError(Cause.MASK_SIZE, wrong)
        except BadSampleError as error:
            faults.append(error)
            continue
        if 0 < mask.area < max_area * size[0] * size[1]:
            masks[key] = mask._asdict()
    if not masks and max_area <= 1:
        raise BadSampleError(Cause.NO_OBJECT, f"{path} has no mask between 0 and {max_area:.0%} of the image")
    return AnnotatedClip(name, FileFrames({0: image}), RleMasks({0: masks}, str(path)), tuple(faults))


def open_layout(config: ShardsConfig) -> SA1B:
    """SA-1B's folders, in any depth; also images/ beside a folder of such json files."""
    return SA1B(root_of(config), config.split, config.max_area)
