"""Images of one's own with masks: images/NAME.jpg and masks/NAME.png, a label map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import source_for
from edgetam_pl.datasets.frames import FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, folder_in, root_of
from edgetam_pl.datasets.layouts.sa1b import read_annotations
from edgetam_pl.datasets.masks import LabelMaps
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import by_stem, files_in, first_folder, some_of, strangers_in
from edgetam_pl.io.pictures import PICTURE_FILES


@dataclass(frozen=True)
class Images(Layout):
    """Pictures in one folder, files of the same names in another: label maps, or json as SA-1B's."""

    images: Path
    masks: Path
    root: Path
    split: str = ""
    max_area: float = 1.0
    kind: str = "image"

    @cached_property
    def _pictures(self) -> dict[str, Path]:
        return by_stem(files_in(self.images, PICTURE_FILES))

    @cached_property
    def _labels(self) -> dict[str, Path]:
        return by_stem(files_in(self.masks, (".json", ".png")))

    def present(self) -> list[str]:
        names = [name for name in self._pictures if name in self._labels]
        if not names and (jpegs := files_in(self.masks, (".jpg", ".jpeg"))):
            raise ValueError(
                f"{self.masks} holds JPEGs ({some_of([path.name for path in jpegs])}), whose compression changes object "
                f"numbers; masks are label maps in PNG."
            )
        return names

    def expected(self) -> str:
        return f"image in {self.images} with a mask of the same name (.png) in {self.masks}"

    def incomplete(self) -> dict[str, str]:
        bare = {name: f"{name} has no masks in {self.masks}" for name in self._pictures if name not in self._labels}
        return bare | {name: f"{name} has masks and no image" for name in self._labels if name not in self._pictures}

    def unused(self) -> list[str]:
        return super().unused() + strangers_in(self.images, PICTURE_FILES, "picture")

    def clip(self, name: str) -> AnnotatedClip:
        if name not in self._pictures or name not in self._labels:
            raise BadSampleError(Cause.NO_MASK, self.incomplete().get(name, f"{name} is not there"))
        image, path = self._pictures[name], self._labels[name]
        if path.suffix == ".json":
            return read_annotations(name, path, image, self.max_area)
        return AnnotatedClip(name, FileFrames({0: image}), LabelMaps({0: path}, max_area=self.max_area))


def open_layout(config: ShardsConfig) -> Images:
    """images/ and masks/ with files of the same names; without masks/, sa1b_json/."""
    root = root_of(config)
    masks = first_folder(root, ("masks", "sa1b_json"))
    if masks is None:
        hint = next(filter(None, (source_for(place) for place in (root, root / "annotations", root / "images"))), "")
        raise ValueError(f"{root} has no folder masks, which source=images expects beside images.{hint}")
    return Images(folder_in(root, "images", config), masks, root, config.split, config.max_area)
