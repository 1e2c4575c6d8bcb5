"""SA-1B: images with one json each, a run-length mask an annotation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import annotated_image, read_json, source_for
from edgetam_pl.datasets.frames import FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, root_of
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
