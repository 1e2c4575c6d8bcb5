"""A user's own data: images with label PNGs, videos with a folder of label PNGs each."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError, Cause
from edgetam_pl.data.readers.base import Frame, Listing, Mask, read_labels
from edgetam_pl.data.readers.files import IMAGE_FILES, VIDEO_FILES, every_frame, folder_in, frame_files, number_of, root_of


@dataclass(frozen=True)
class ImageFolder:
    """images/NAME.jpg with masks/NAME.png, a label PNG."""

    images: Path
    masks: Path
    max_area: float
    listing: Listing
    kind: str = "image"

    def items(self) -> list[str]:
        labelled = {path.stem for path in self.masks.glob("*.png")}
        names = sorted({path.stem for path in frame_files(self.images)} & labelled)
        return self.listing.of(names, what=f"image in {self.images} with a mask of the same name (.png) in {self.masks}")

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        labels = self.masks / f"{item}.png"
        image = next(path for suffix in IMAGE_FILES for path in self.images.glob(f"{glob.escape(item)}{suffix}"))
        try:
            masks: dict[str, Mask] = {
                name: mask
                for name, mask in read_labels(labels).items()
                if np.count_nonzero(mask) < self.max_area * mask.size
            }
        except BadSampleError as error:
            yield error
            return
        if masks:
            yield Frame(0, image, masks)
        else:
            yield BadSampleError(Cause.NO_OBJECT, f"{labels} marks no object below {self.max_area:.0%} of the image")


def images(config: ShardsConfig) -> ImageFolder:
    """Your own images: images/ and masks/ with files of the same names."""
    root = root_of(config)
    folder, masks = folder_in(root, "images", config), folder_in(root, "masks", config)
    return ImageFolder(folder, masks, config.max_area, Listing.of_config(config, root))


@dataclass(frozen=True)
class VideoFolder:
    """videos/NAME.mp4 with masks/NAME/00000.png: a label PNG named by the number of its video frame."""

    videos: Path
    masks: Path
    listing: Listing
    kind: str = "video"

    def items(self) -> list[str]:
        films = sorted(path.name for path in self.videos.iterdir() if path.suffix.lower() in VIDEO_FILES)
        names = [Path(film).stem for film in films if (self.masks / Path(film).stem).is_dir()]
        what = (
            f"video in {self.videos} ({len(films)} there) with a folder of masks, masks/NAME/00000.png for videos/NAME.mp4"
        )
        return self.listing.of(names, what=what)

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        film = next(
            path for path in sorted(self.videos.glob(f"{glob.escape(item)}.*")) if path.suffix.lower() in VIDEO_FILES
        )
        labels = {number_of(path): path for path in (self.masks / item).glob("*.png")}
        if not labels:
            yield BadSampleError(Cause.NO_MASK, f"{self.masks / item} holds no mask (.png)")
            return
        last, seen = max(labels), set()
        try:
            for number, pixels in every_frame(film, 1, only=frozenset(labels)):
                seen.add(number)
                try:
                    yield Frame(number, pixels, read_labels(labels[number]))
                except BadSampleError as error:
                    yield error
                if number >= last:
                    break
        except BadSampleError as error:
            yield error
            return
        for number in sorted(set(labels) - seen):
            yield BadSampleError(Cause.VIDEO, f"{labels[number]} has no frame: {film} is shorter")


def videos(config: ShardsConfig) -> VideoFolder:
    """Your own videos: videos/NAME.mp4 and masks/NAME/00000.png."""
    root = root_of(config)
    folder, masks = folder_in(root, "videos", config), folder_in(root, "masks", config)
    return VideoFolder(folder, masks, Listing.of_config(config, root))
