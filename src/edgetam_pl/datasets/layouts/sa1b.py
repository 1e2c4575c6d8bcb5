"""SA-1B: images with one json each, a run-length mask an annotation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import annotated_image, read_json, source_for
from edgetam_pl.datasets.frames import FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, root_of
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import file_called, files_below, files_in
from edgetam_pl.io.pictures import PICTURE_FILES


@dataclass(frozen=True)
class SA1B(Layout):
    """SA-1B: sa_000001.jpg with sa_000001.json, in any depth of folders; or images/ apart from the json files."""

    root: Path
    split: str = ""
    max_area: float = 1.0
    """Masks that cover this share of the image or more are left out."""
    kind: str = "image"

    def present(self) -> list[str]:
        return self._names[0]

    def incomplete(self) -> dict[str, str]:
        return self._names[1]

    @cached_property
    def _names(self) -> tuple[list[str], dict[str, str]]:
        """The pairs of an image and a json, and what is alone; millions of names are strings, not objects."""
        apart = {path.stem for path in files_in(self.root / "images", PICTURE_FILES)}
        found: list[str] = []
        alone: dict[str, str] = {}
        for folder, names in files_below(self.root):
            parts = [os.path.splitext(name) for name in names]
            pictures = {stem for stem, suffix in parts if suffix.lower() in PICTURE_FILES}
            annotated = {stem for stem, suffix in parts if suffix == ".json"}
            found += [folder + stem for stem in annotated if stem in pictures or stem in apart]
            alone |= {folder + stem: f"{folder}{stem}.json has no image" for stem in annotated - pictures - apart}
            if folder == "images/":
                continue
            alone |= {folder + stem: f"the image {folder}{stem} has no json" for stem in pictures - annotated}
        if apart:
            used = {name.rsplit("/", 1)[-1] for name in found}
            alone |= {f"images/{stem}": f"the image images/{stem} has no json" for stem in apart - used}
        return sorted(found), dict(sorted(alone.items()))

    def expected(self) -> str:
        return f"image in {self.root} with its annotation; SA-1B is pairs of sa_1.jpg and sa_1.json"

    def clip(self, name: str) -> AnnotatedClip:
        path = self.root / f"{name}.json"
        image = file_called(self.root / name, PICTURE_FILES) or file_called(self.root / "images" / path.stem, PICTURE_FILES)
        if image is None:
            raise BadSampleError(Cause.IMAGE, f"{path} has no image: neither {path.stem}.jpg in its folder nor in images/")
        return read_annotations(name, path, image, self.max_area)


def read_annotations(name: str, path: Path, image: Path, max_area: float) -> AnnotatedClip:
    """An image with the masks of a json as SA-1B's.

    Raises:
        BadSampleError: the json is not one of SA-1B, or has no mask that can be used.
    """
    raw = read_json(path)
    try:
        size = (int(raw["image"]["height"]), int(raw["image"]["width"]))
        objects = [(str(entry["id"]), [entry["segmentation"]]) for entry in raw["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadSampleError(
            Cause.ANNOTATION, f"{path} is not an SA-1B annotation ({error!r:.80}).{source_for(path)}"
        ) from error
    return annotated_image(name, FileFrames({0: image}), size, objects, str(path), max_area)


def open_layout(config: ShardsConfig) -> SA1B:
    """SA-1B's folders, in any depth; also images/ beside a folder of such json files."""
    return SA1B(root_of(config), config.split, config.max_area)
