"""SA-V: the training set as mp4 with run-length masklets, validation and test as folders of JPEG and PNG."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError, Cause
from edgetam_pl.data.readers.base import Frame, Listing, Mask, checked, read_labels
from edgetam_pl.data.readers.files import below, every_frame, folder_in, folders_in, frame_files, number_of, root_of


@dataclass(frozen=True)
class SAV:
    """SA-V train: sav_000001.mp4 (24 FPS) with sav_000001_manual.json or _auto.json, whose entry i is video frame 4 i."""

    root: Path
    annotations: str  # manual | auto | both
    listing: Listing
    every: int = 4
    kind: str = "video"

    def items(self) -> list[str]:
        what = f"video in {self.root}; SA-V's training set is sav_000001.mp4 with sav_000001_manual.json etc."
        return self.listing.of(below(self.root, ".mp4"), what=what)

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        try:
            masklets = self.masklets(item)
        except BadSampleError as error:
            yield error
            return
        wanted = len(next(iter(masklets.values())))
        seen = 0
        try:
            for number, pixels in every_frame(self.root / f"{item}.mp4", self.every):
                entry = number // self.every
                if entry >= wanted:
                    break
                seen += 1
                yield self._frame(item, masklets, number, pixels)
        except BadSampleError as error:
            yield error
            return
        if seen < wanted:
            yield BadSampleError(
                Cause.VIDEO,
                f"{self.root / item}.mp4 ends after {seen} annotated frames; its annotation has {wanted}, one every "
                f"{self.every} frames. Is the mp4 complete, and is every={self.every} right?",
            )

    def _frame(
        self, item: str, masklets: Mapping[str, list[Any]], number: int, pixels: NDArray[np.uint8]
    ) -> Frame | BadSampleError:
        try:
            size = (pixels.shape[0], pixels.shape[1])
            return Frame(number, pixels, self._masks(item, masklets, number, size=size), size)
        except BadSampleError as error:
            return error

    def masks(self, item: str, frame: int) -> dict[str, Mask]:
        """The masks of one video frame, by object.

        Raises:
            ValueError: the frame is not annotated: only every fourth one is.
        """
        masklets = self.masklets(item)
        count = len(next(iter(masklets.values())))
        if frame % self.every or not 0 <= frame // self.every < count:
            raise ValueError(
                f"Frame {frame} of {item} is not annotated; frames 0, {self.every}, {2 * self.every} ... "
                f"{(count - 1) * self.every} are."
            )
        return self._masks(item, masklets, frame)

    def _masks(
        self, item: str, masklets: Mapping[str, list[Any]], frame: int, *, size: tuple[int, int] | None = None
    ) -> dict[str, Mask]:
        """Raises BadSampleError where an entry is null or its size is not the video's (the release drops such frames)."""
        found: dict[str, Mask] = {}
        for kind, entries in masklets.items():
            entry = entries[frame // self.every]
            if entry is None or any(mask is None for mask in entry):
                raise BadSampleError(Cause.NO_MASK, f"{item}: frame {frame} has no {kind} annotation")
            for number, mask in enumerate(entry):
                name = str(number) if self.annotations != "both" else f"{kind}-{number}"
                found |= checked({name: mask}, f"{item}, frame {frame}, object {name}", size=size)
        return found

    def masklets(self, item: str) -> dict[str, list[Any]]:
        """kind -> entry of each annotated frame -> RLE of each object.

        Raises:
            BadSampleError: no annotation of the wanted kind, or not SA-V's.
        """
        found = {}
        for kind in ("manual", "auto") if self.annotations == "both" else (self.annotations,):
            path = self.root / f"{item}_{kind}.json"
            if not path.is_file():
                if self.annotations == "both":
                    continue
                raise BadSampleError(Cause.NO_MASK, f"{path} does not exist")
            try:
                found[kind] = json.loads(path.read_text())["masklet"]
            except (ValueError, KeyError, TypeError, OSError) as error:
                raise BadSampleError(Cause.ANNOTATION, f"{path} is not an SA-V annotation ({error!r:.80})") from error
            if not isinstance(found[kind], list) or not found[kind]:
                raise BadSampleError(Cause.ANNOTATION, f"{path} holds no masklet")
        if not found:
            raise BadSampleError(Cause.NO_MASK, f"{item} has neither a manual nor an auto annotation")
        return found


@dataclass(frozen=True)
class SAVFolders:
    """SA-V val and test: JPEGImages_24fps/VIDEO/00000.jpg, Annotations_6fps/VIDEO/OBJECT/00000.png, which may overlap."""

    images: Path
    annotations: Path
    listing: Listing
    kind: str = "video"

    def items(self) -> list[str]:
        return self.listing.of(folders_in(self.annotations), what=f"video in {self.annotations}")

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        objects = sorted(path for path in (self.annotations / item).iterdir() if path.is_dir())
        annotated = sorted({number_of(path) for folder in objects for path in folder.glob("*.png")})
        files = {number_of(path): path for path in frame_files(self.images / item)}
        for number in annotated:
            if number not in files:
                yield BadSampleError(Cause.VIDEO, f"{item}: frame {number} is annotated but has no image")
                continue
            masks: dict[str, Mask] = {}
            try:
                for folder in objects:
                    for path in folder.glob(f"*{number}.png"):
                        found = read_labels(path) if number_of(path) == number else {}
                        if found:  # one object a folder, whatever value its pixels have
                            masks[folder.name] = next(iter(found.values()))
            except BadSampleError as error:
                yield error
                continue
            yield Frame(number, files[number], masks)


def sav(config: ShardsConfig) -> SAV | SAVFolders:
    """SA-V: train as mp4 and json in any depth of folders; val and test as folders of JPEG and PNG."""
    root = root_of(config)
    if config.annotations not in {"manual", "auto", "both"}:
        raise ValueError(f"annotations={config.annotations} is not one of SA-V's; use manual, auto or both.")
    if (root / "JPEGImages_24fps").is_dir():
        images, annotations = root / "JPEGImages_24fps", folder_in(root, "Annotations_6fps", config)
        return SAVFolders(images, annotations, Listing.of_config(config, root))
    return SAV(root, config.annotations, Listing.of_config(config, root), config.every)
