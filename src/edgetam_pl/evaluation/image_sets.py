"""Images and their masks: an image is a video of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgetam_pl.evaluation.clips import Clip, ClipObject
from edgetam_pl.evaluation.folders import IMAGE_SUFFIXES, files_in
from edgetam_pl.evaluation.rules import VOID, Opener, SetRule
from edgetam_pl.evaluation.sources import FileFrames, PaletteTruths, RleTruths, read_sized
from edgetam_pl.io.label_png import labels_in


@dataclass(frozen=True)
class ImageOpener(Opener):
    """images/ with masks beside them: sa1b_json/<image>.json or masks/<image>.png. An image is a video of one frame."""

    images: Mapping[str, Path]
    masks: Path

    def place(self) -> str:
        return str(self.masks.parent / "images")

    def missing(self, name: str) -> str:
        if name not in self.images:
            return f"{name} has masks and no image"
        return "" if self._mask(name) else f"{name} has no masks in {self.masks}"

    def open(self, name: str, rule: SetRule) -> Clip:
        frames, path = FileFrames((self.images[name],)), self._mask(name)
        assert path is not None, "incomplete images were sorted out before"
        if path.suffix == ".json":
            return Clip(name, frames, RleTruths(path, frames.size))
        labels = tuple(label for label in labels_in(read_sized(path, frames.size)) if label not in (0, VOID))
        objects = tuple(ClipObject(str(label), 0, (0,)) for label in labels)
        return Clip(name, frames, PaletteTruths(objects, labels, {0: path}, frames.size))

    def _mask(self, name: str) -> Path | None:
        return next((p for s in (".json", ".png") if (p := self.masks / f"{name}{s}").is_file()), None)


def image_opener(root: Path) -> tuple[Opener, list[str]]:
    masks = next((root / name for name in ("sa1b_json", "masks") if (root / name).is_dir()), None)
    if masks is None or not (root / "images").is_dir():
        raise ValueError(f"{root} should hold images/ and sa1b_json/ or masks/.")
    images = {path.stem: path for path in files_in(root / "images", IMAGE_SUFFIXES)}
    return ImageOpener(images, masks), sorted({*images, *(path.stem for path in files_in(masks, (".json", ".png")))})
