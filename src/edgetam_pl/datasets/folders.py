"""Data sets of picture files and label maps, a folder of each for every video: DAVIS, MOSE, YouTube-VOS, SA-V's val."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.frames import FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout
from edgetam_pl.datasets.masks import LabelMaps, ObjectFolders, label_files
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import aligned, files_in, first_folder, folders_in, numbered, some_of
from edgetam_pl.io.pictures import PICTURE_FILES


@dataclass(frozen=True)
class VideoFolders(Layout):
    """JPEGImages/VIDEO/00000.jpg and Annotations/VIDEO/00000.png, or Annotations/VIDEO/OBJECT/00000.png.

    A frame without label map is not annotated. Masks are called as their frames are, or have their numbers.
    """

    images: Path
    annotations: Path
    root: Path
    split: str = ""
    per_object: bool = False
    """A folder for each object (SA-V)."""
    known: Mapping[str, frozenset[str]] | None = None
    """YouTube-VOS: objects of each video, from meta.json."""

    def present(self) -> list[str]:
        names = sorted({*folders_in(self.images), *folders_in(self.annotations)})
        if self.known is not None and (missing := [name for name in names if name not in self.known]):
            raise ValueError(f"meta.json does not know the video {some_of(missing)}; is the folder complete?")
        return names

    def expected(self) -> str:
        return f"video in {self.images}: a folder of frames for each is expected, and one of masks in {self.annotations}"

    def incomplete(self) -> dict[str, str]:
        return {name: lack for name in self.present() if (lack := self._lack(name))}

    def clip(self, name: str) -> AnnotatedClip:
        if lack := self._lack(name):
            raise BadSampleError(Cause.NO_MASK if (self.images / name).is_dir() else Cause.VIDEO, lack)
        frames = numbered(files_in(self.images / name, PICTURE_FILES))
        if not frames:
            raise BadSampleError(Cause.VIDEO, f"{self.images / name} holds no frames ({', '.join(PICTURE_FILES)})")
        folder = self.annotations / name
        places = [folder / item for item in folders_in(folder)] if self.per_object else [folder]
        paths: dict[str, dict[int, Path]] = {}
        faults = []
        for place in places:
            paths[place.name], strangers = aligned(frames, label_files(place))
            if strangers:
                named = f"{some_of([path.name for path in strangers])}. Masks are called as their frames are"
                faults.append(BadSampleError(Cause.VIDEO, f"{place} has masks without a frame: {named}"))
        if self.per_object and not paths:
            raise BadSampleError(Cause.NO_MASK, f"{folder} holds no folder of an object; SA-V has one with PNGs for each")
        if self.per_object:
            return AnnotatedClip(name, FileFrames(frames), ObjectFolders(paths), tuple(faults))
        faults += [
            BadSampleError(Cause.NO_MASK, f"{path} has no mask {folder / path.stem}.png")
            for t, path in enumerate(frames.values())
            if t not in paths[name]
        ]
        known = None if self.known is None else self.known[name]
        return AnnotatedClip(name, FileFrames(frames), LabelMaps(paths[name], known), tuple(faults))

    def _lack(self, name: str) -> str:
        gone = [str(folder / name) for folder in (self.images, self.annotations) if not (folder / name).is_dir()]
        return f"{name} is in one folder and not in the other: there is no {' and no '.join(gone)}" if gone else ""


def part_of(root: Path, config: ShardsConfig) -> tuple[Path, str]:
    """Where JPEGImages of a part (train) lies, and the list of names: `split` names the part, or is a list in it."""
    listed = config.split if config.split.endswith(".txt") else ""
    name = "train" if listed else config.split or "train"
    if (root / name).is_dir():
        return root / name, listed
    if (root / "JPEGImages").is_dir():  # the root is that part already
        return root, "" if name in ("train", root.name) and not listed else config.split
    raise ValueError(f"{root} has neither {name}/JPEGImages nor JPEGImages; source={config.source} expects one of them.")


def resolution_in(folder: Path) -> Path:
    """DAVIS keeps 480p, 1080p or Full-Resolution folders between."""
    return first_folder(folder, ("480p", "1080p", "Full-Resolution")) or folder


def annotations_folder(root: Path) -> Path:
    """Where the masks of a data set lie; the root itself when it has no folder of a known name."""
    names = ("Annotations/480p", "Annotations_6fps", "Annotations/Full-Resolution", "Annotations")
    return first_folder(root, names) or root
