"""Data sets of JPEG frames and palette PNGs: DAVIS, MOSE, YouTube-VOS, and folders like them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError, Cause
from edgetam_pl.data.readers.base import Frame, Listing, Mask, read_labels
from edgetam_pl.data.readers.files import folder_in, folders_in, frame_files, number_of, part_of, resolution_in, root_of


@dataclass(frozen=True)
class PaletteFolder:
    """DAVIS, MOSE, YouTube-VOS and folders like them: JPEGImages/VIDEO/00000.jpg, Annotations/VIDEO/00000.png.

    A PNG's pixel value is the object's number, 0 background, 255 void (counted as background); a black and white PNG is
    one object. A frame without PNG is not annotated.
    """

    images: Path
    annotations: Path
    listing: Listing
    known: Mapping[str, frozenset[str]] | None = None  # YouTube-VOS: objects of each video, from meta.json
    sparse: bool = False  # frames without PNG are part of the data set, not an error
    kind: str = "video"

    def items(self) -> list[str]:
        names = self.listing.of(folders_in(self.images), what=f"video in {self.images}")
        if self.known is not None and (missing := [name for name in names if name not in self.known]):
            raise ValueError(
                f"meta.json does not know the video {missing[0]} ({len(missing)} in all); is the folder complete?"
            )
        return names

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        files = frame_files(self.images / item)
        masks = {number_of(path): path for path in (self.annotations / item).glob("*.png")}
        if not files:
            yield BadSampleError(Cause.VIDEO, f"{self.images / item} holds no .jpg or .png frame")
        if not masks:
            yield BadSampleError(Cause.NO_MASK, f"{self.annotations / item} holds no mask (.png)")
            return
        for path in files:
            number = number_of(path)
            if number not in masks:
                if not self.sparse:
                    yield BadSampleError(Cause.NO_MASK, f"{path} has no mask {self.annotations / item / path.stem}.png")
                continue
            try:
                found = read_labels(masks[number])
                self._expected(item, found, masks[number])
                yield Frame(number, path, found)
            except BadSampleError as error:
                yield error

    def _expected(self, item: str, found: Mapping[str, Mask], path: Path) -> None:
        if self.known is not None and not set(found) <= self.known[item]:
            strange = ", ".join(sorted(set(found) - self.known[item]))
            raise BadSampleError(Cause.ANNOTATION, f"{path} shows object {strange}, which meta.json does not list")


def davis(config: ShardsConfig) -> PaletteFolder:
    """DAVIS 2016 and 2017: JPEGImages/480p/SEQ, Annotations/480p/SEQ, ImageSets/2017/train.txt; any folder of that shape."""
    root = root_of(config)
    images, annotations = (resolution_in(folder_in(root, name, config)) for name in ("JPEGImages", "Annotations"))
    return PaletteFolder(images, annotations, Listing.of_config(config, root))


def mose(config: ShardsConfig) -> PaletteFolder:
    """MOSE: train/JPEGImages/VIDEO, train/Annotations/VIDEO. Only training masks are public."""
    listed = config.split if config.split.endswith(".txt") else ""
    root = part_of(root_of(config), "train" if listed else config.split or "train", config)
    images, annotations = folder_in(root, "JPEGImages", config), folder_in(root, "Annotations", config)
    return PaletteFolder(images, annotations, Listing.of_config(config, root, listed))


def ytvos(config: ShardsConfig) -> PaletteFolder:
    """YouTube-VOS 2018/2019: train/JPEGImages/VIDEO, train/Annotations/VIDEO, train/meta.json."""
    listed = config.split if config.split.endswith(".txt") else ""
    root = part_of(root_of(config), "train" if listed else config.split or "train", config)
    images, annotations = folder_in(root, "JPEGImages", config), folder_in(root, "Annotations", config)
    meta = root / "meta.json"
    if not meta.is_file():
        raise ValueError(f"{root} has no meta.json; YouTube-VOS is distributed with one. For folders without: source=davis.")
    try:
        videos = json.loads(meta.read_text())["videos"]
        known = {name: frozenset(entry["objects"]) for name, entry in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{meta} is not YouTube-VOS's meta.json ({error!r}); download it again.") from error
    return PaletteFolder(images, annotations, Listing.of_config(config, root, listed), known)
