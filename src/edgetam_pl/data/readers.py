"""The data sets exactly as they are distributed, and a user's own folders, as streams of frames with masks.

A reader lists its videos (or images) and yields the annotated frames of each. Layouts: training facts 9. What is wrong
with one frame or one video is raised as a BadSampleError that the builder counts; what is wrong with the folder as a
whole is a ValueError that says what was expected.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data import rle
from edgetam_pl.data.faults import BadSampleError, Cause
from edgetam_pl.data.toy import toy_clip

Mask = NDArray[np.bool_] | str
"""A mask (H, W), or its compressed counts at the frame's size."""

IMAGE_FILES = (".jpg", ".jpeg", ".png")
VIDEO_FILES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


@dataclass(frozen=True)
class Frame:
    """One annotated frame."""

    number: int  # in the original video
    image: Path | NDArray[np.uint8]  # a JPEG or PNG file, or pixels (H, W, 3) RGB
    masks: Mapping[str, Mask]  # visible objects only, by name
    size: tuple[int, int] | None = None  # (H, W) of the masks; None where they are arrays


class Reader(Protocol):
    """A data set. `frames` may be called in any process, for any item, in any order."""

    @property
    def kind(self) -> str:
        """video | image"""
        ...

    def items(self) -> list[str]:
        """Names of all videos or images, in a fixed order."""
        ...

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        """The annotated frames of one video in order. A frame that cannot be used comes as its error."""
        ...


@dataclass(frozen=True)
class Listing:
    """Which of the videos or images that are there are wanted."""

    source: str
    root: Path
    split: str = ""

    @staticmethod
    def of_config(config: ShardsConfig, root: Path, split: str | None = None) -> Listing:
        return Listing(config.source, root, config.split if split is None else split)

    def of(self, present: list[str], *, what: str) -> list[str]:
        """The wanted names, in the list's order, or all.

        Raises:
            ValueError: there is no such list, or nothing of it is there.
        """
        if not present:
            raise ValueError(
                f"There is no {what}; source={self.source} can make nothing of this folder. See docs/shards.md."
            )
        if not self.split:
            return present
        by_name = {name.rsplit("/", 1)[-1]: name for name in present}
        names = [by_name[name] for name in self._names() if name in by_name]
        if not names:
            raise ValueError(f"Nothing in {self.root} is named in split={self.split}.")
        return names

    def _names(self) -> list[str]:
        split = self.split
        places = [
            Path(split),
            self.root / split,
            *sorted(self.root.glob(f"ImageSets/*/{split}.txt")),
            self.root / f"{split}.txt",
        ]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            raise ValueError(
                f"split={split} names no list: no such file, no ImageSets/*/{split}.txt and no {split}.txt in {self.root}."
            )
        lines = (line.strip() for line in path.read_text().splitlines())
        return [line.split()[0].removesuffix(".mp4").removesuffix(".jpg") for line in lines if line]


# -------------------------------------------------------------------------------------------------- palette folders


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
        names = self.listing.of(_folders(self.images), what=f"video in {self.images}")
        if self.known is not None and (missing := [name for name in names if name not in self.known]):
            raise ValueError(
                f"meta.json does not know the video {missing[0]} ({len(missing)} in all); is the folder complete?"
            )
        return names

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        files = _frame_files(self.images / item)
        masks = {_number(path): path for path in (self.annotations / item).glob("*.png")}
        if not files:
            yield BadSampleError(Cause.VIDEO, f"{self.images / item} holds no .jpg or .png frame")
        if not masks:
            yield BadSampleError(Cause.NO_MASK, f"{self.annotations / item} holds no mask (.png)")
            return
        for path in files:
            number = _number(path)
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


def read_labels(path: Path) -> dict[str, NDArray[np.bool_]]:
    """The objects of a label PNG: {"1": mask (H, W), ...}, empty ones left out.

    Raises:
        BadSampleError: no image, or a colour image without palette.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in {"P", "L", "1", "I", "I;16"}:
                raise BadSampleError(
                    Cause.ANNOTATION, f"{path} is a colour image ({image.mode}); a palette PNG of object numbers is expected"
                )
            black_and_white = image.mode in {"1", "L"}
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError(Cause.MASK, f"{path} is no readable PNG ({error})") from error
    labels = labels.astype(np.uint16)
    values = np.flatnonzero(np.bincount(labels.reshape(-1)))
    if black_and_white and set(values.tolist()) <= {0, 1, 255}:
        mask = labels > 0
        return {"1": mask} if mask.any() else {}
    return {str(value): labels == value for value in values.tolist() if value not in (0, 255)}


def davis(config: ShardsConfig) -> PaletteFolder:
    """DAVIS 2016 and 2017: JPEGImages/480p/SEQ, Annotations/480p/SEQ, ImageSets/2017/train.txt; any folder of that shape."""
    root = _root(config)
    images, annotations = (_resolution(_folder(root, name, config)) for name in ("JPEGImages", "Annotations"))
    return PaletteFolder(images, annotations, Listing.of_config(config, root))


def mose(config: ShardsConfig) -> PaletteFolder:
    """MOSE: train/JPEGImages/VIDEO, train/Annotations/VIDEO. Only training masks are public."""
    listed = config.split if config.split.endswith(".txt") else ""
    root = _part(_root(config), "train" if listed else config.split or "train", config)
    images, annotations = _folder(root, "JPEGImages", config), _folder(root, "Annotations", config)
    return PaletteFolder(images, annotations, Listing.of_config(config, root, listed))


def ytvos(config: ShardsConfig) -> PaletteFolder:
    """YouTube-VOS 2018/2019: train/JPEGImages/VIDEO, train/Annotations/VIDEO, train/meta.json."""
    listed = config.split if config.split.endswith(".txt") else ""
    root = _part(_root(config), "train" if listed else config.split or "train", config)
    images, annotations = _folder(root, "JPEGImages", config), _folder(root, "Annotations", config)
    meta = root / "meta.json"
    if not meta.is_file():
        raise ValueError(f"{root} has no meta.json; YouTube-VOS is distributed with one. For folders without: source=davis.")
    try:
        videos = json.loads(meta.read_text())["videos"]
        known = {name: frozenset(entry["objects"]) for name, entry in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{meta} is not YouTube-VOS's meta.json ({error!r}); download it again.") from error
    return PaletteFolder(images, annotations, Listing.of_config(config, root, listed), known)


# ------------------------------------------------------------------------------------------------------------- SA-V


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
        return self.listing.of(_below(self.root, ".mp4"), what=what)

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
                found |= _checked({name: mask}, f"{item}, frame {frame}, object {name}", size=size)
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
        return self.listing.of(_folders(self.annotations), what=f"video in {self.annotations}")

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        objects = sorted(path for path in (self.annotations / item).iterdir() if path.is_dir())
        annotated = sorted({_number(path) for folder in objects for path in folder.glob("*.png")})
        files = {_number(path): path for path in _frame_files(self.images / item)}
        for number in annotated:
            if number not in files:
                yield BadSampleError(Cause.VIDEO, f"{item}: frame {number} is annotated but has no image")
                continue
            masks: dict[str, Mask] = {}
            try:
                for folder in objects:
                    for path in folder.glob(f"*{number}.png"):
                        found = read_labels(path) if _number(path) == number else {}
                        if found:  # one object a folder, whatever value its pixels have
                            masks[folder.name] = next(iter(found.values()))
            except BadSampleError as error:
                yield error
                continue
            yield Frame(number, files[number], masks)


def sav(config: ShardsConfig) -> SAV | SAVFolders:
    """SA-V: train as mp4 and json in any depth of folders; val and test as folders of JPEG and PNG."""
    root = _root(config)
    if config.annotations not in {"manual", "auto", "both"}:
        raise ValueError(f"annotations={config.annotations} is not one of SA-V's; use manual, auto or both.")
    if (root / "JPEGImages_24fps").is_dir():
        images, annotations = root / "JPEGImages_24fps", _folder(root, "Annotations_6fps", config)
        return SAVFolders(images, annotations, Listing.of_config(config, root))
    return SAV(root, config.annotations, Listing.of_config(config, root), config.every)


# ----------------------------------------------------------------------------------------------------------- SA-1B


@dataclass(frozen=True)
class SA1B:
    """SA-1B: sa_000001.jpg with sa_000001.json, one annotation a mask."""

    root: Path
    max_area: float
    listing: Listing
    kind: str = "image"

    def items(self) -> list[str]:
        apart = {path.stem for path in (self.root / "images").glob("*.jpg")}
        what = f"image in {self.root} with its annotation; SA-1B is pairs of sa_1.jpg and sa_1.json"
        return self.listing.of(_below(self.root, ".json", beside=".jpg", apart=apart), what=what)

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        path = self.root / f"{item}.json"
        image = path.with_suffix(".jpg")
        if not image.is_file():  # COCO-like: annotations and images in folders of their own
            image = self.root / "images" / image.name
        if not image.is_file():
            yield BadSampleError(Cause.IMAGE, f"{path} has no image: neither {path.stem}.jpg beside it nor in images/")
            return
        try:
            raw = json.loads(path.read_text())
            size = (int(raw["image"]["height"]), int(raw["image"]["width"]))
            annotations = {str(entry["id"]): entry["segmentation"] for entry in raw["annotations"]}
        except (ValueError, KeyError, TypeError, OSError) as error:
            yield BadSampleError(Cause.ANNOTATION, f"{path} is not an SA-1B annotation ({error!r:.80})")
            return
        masks: dict[str, Mask] = {}
        for name, entry in annotations.items():
            try:
                found = _checked({name: entry}, f"{path}, annotation {name}", size=size)
            except BadSampleError as error:
                yield error
                continue
            masks |= {key: mask for key, mask in found.items() if self._fits(mask, size)}
        if masks:
            yield Frame(0, image, masks, size)
        else:
            yield BadSampleError(Cause.NO_OBJECT, f"{path} has no mask between 0 and {self.max_area:.0%} of the image")

    def _fits(self, mask: Mask, size: tuple[int, int]) -> bool:
        assert isinstance(mask, str)
        return 0 < rle.area(rle.parse(mask, size)) < self.max_area * size[0] * size[1]


def sa1b(config: ShardsConfig) -> SA1B:
    """SA-1B's folders, in any depth; also images/ beside a folder of such json files."""
    root = _root(config)
    return SA1B(root, config.max_area, Listing.of_config(config, root))


# ---------------------------------------------------------------------------------------------------------- own data


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
        names = sorted({path.stem for path in _frame_files(self.images)} & labelled)
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
    root = _root(config)
    folder, masks = _folder(root, "images", config), _folder(root, "masks", config)
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
        labels = {_number(path): path for path in (self.masks / item).glob("*.png")}
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
    root = _root(config)
    folder, masks = _folder(root, "videos", config), _folder(root, "masks", config)
    return VideoFolder(folder, masks, Listing.of_config(config, root))


@dataclass(frozen=True)
class Toy:
    """Generated clips (`toy.py`); of one frame they are images."""

    clips: int
    num_frames: int
    size: int
    objects: int
    seed: int

    @property
    def kind(self) -> str:
        return "image" if self.num_frames == 1 else "video"

    def items(self) -> list[str]:
        return [f"toy-{number:06d}" for number in range(self.clips)]

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        first = self.seed * 100_000 + (50_000 if self.kind == "image" else 0)
        frames, masks = toy_clip(first + int(item.removeprefix("toy-")), self.num_frames, self.size, self.objects)
        for t, pixels in enumerate(frames):
            yield Frame(t, pixels, {str(o + 1): mask for o, mask in enumerate(masks[t]) if mask.any()})


def toy(config: ShardsConfig) -> Toy:
    """Generated clips."""
    if not 0 < config.clips <= 50_000 or config.seed < 0 or config.seed > 9:
        raise ValueError(f"clips={config.clips} seed={config.seed}: toy makes 1 to 50000 clips, with a seed of 0 to 9.")
    return Toy(config.clips, config.frames, config.size, config.objects, config.seed)


READERS: dict[str, Callable[[ShardsConfig], Reader]] = {
    "davis": davis,
    "mose": mose,
    "ytvos": ytvos,
    "sav": sav,
    "sa1b": sa1b,
    "images": images,
    "videos": videos,
    "toy": toy,
}


def open_reader(config: ShardsConfig) -> Reader:
    """The reader of a data set.

    Raises:
        ValueError: an unknown source, or a folder that is not what the source expects.
    """
    if config.source not in READERS:
        raise ValueError(f"source={config.source} is unknown; use one of {', '.join(READERS)}.")
    return READERS[config.source](config)


# ------------------------------------------------------------------------------------------------------------- parts


def every_frame(path: Path, every: int, *, only: frozenset[int] | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(number, pixels (H, W, 3) RGB) of frames 0, every, 2 every ... of a video, decoded one after another.

    Only frames that are handed out are converted to RGB. Memory holds one frame.

    Raises:
        BadSampleError: the file cannot be opened or decoded.
    """
    import av  # slow to import; only videos need it
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadSampleError(Cause.VIDEO, f"{path} has no video stream")
            stream = container.streams.video[0]
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0 and (only is None or number in only):
                    yield number, frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    except (FFmpegError, OSError, ValueError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError(Cause.VIDEO, f"{path} cannot be decoded ({error})") from error


def _checked(masks: Mapping[str, Any], where: str, *, size: tuple[int, int] | None = None) -> dict[str, Mask]:
    """COCO RLE dictionaries to compressed counts, empty masks left out.

    Raises:
        BadSampleError: MASK or MASK_SIZE.
    """
    found: dict[str, Mask] = {}
    for name, raw in masks.items():
        try:
            own = (int(raw["size"][0]), int(raw["size"][1]))
            counts = raw["counts"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadSampleError(Cause.MASK, f"{where}: a mask is no COCO RLE ({error!r:.60})") from error
        if size is not None and own != size:
            raise BadSampleError(Cause.MASK_SIZE, f"{where}: mask {own[0]} x {own[1]}, image {size[0]} x {size[1]}")
        if isinstance(counts, list):  # COCO's uncompressed form
            if not all(isinstance(n, int) and n >= 0 for n in counts) or not counts:
                raise BadSampleError(Cause.MASK, f"{where}: uncompressed counts that are not natural numbers")
            counts = rle.to_counts(np.array(counts, np.int64))
        if rle.area(rle.parse(counts, own)):
            found[name] = counts
    return found


def _frame_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_FILES)
    return sorted(files, key=lambda path: (_number(path), path.stem))


def _number(path: Path) -> int:
    """The frame number in a file's name: the last digits of its stem."""
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _root(config: ShardsConfig) -> Path:
    if not config.root:
        raise ValueError(f"source={config.source} needs root=FOLDER, where the data set lies.")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"root={config.root} is not a folder.")
    return root


def _folder(root: Path, name: str, config: ShardsConfig) -> Path:
    if not (root / name).is_dir():
        raise ValueError(
            f"{root} has no folder {name}; source={config.source} expects one. A folder without masks cannot be used: see "
            f"docs/shards.md for the layouts."
        )
    return root / name


def _part(root: Path, name: str, config: ShardsConfig) -> Path:
    """root/train where it exists, or the root itself when it is that part already."""
    if (root / name).is_dir():
        return root / name
    if (root / "JPEGImages").is_dir():
        return root
    raise ValueError(f"{root} has neither {name}/JPEGImages nor JPEGImages; source={config.source} expects one of them.")


def _resolution(folder: Path) -> Path:
    """DAVIS keeps 480p, 1080p or Full-Resolution folders between."""
    for name in ("480p", "1080p", "Full-Resolution"):
        if (folder / name).is_dir():
            return folder / name
    return folder


def _folders(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.is_dir())


def _below(root: Path, suffix: str, *, beside: str = "", apart: Collection[str] = ()) -> list[str]:
    """Paths of all files of a kind below a folder, relative and without suffix; millions of them are strings, not objects.

    With `beside` only those that have a file of that kind beside them, or whose name is in `apart`.
    """
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        place = os.path.relpath(folder, root)
        prefix = "" if place == "." else f"{place}/"
        stems = [name[: -len(suffix)] for name in files if name.endswith(suffix)]
        if beside:
            there = {name[: -len(beside)] for name in files if name.endswith(beside)}
            stems = [stem for stem in stems if stem in there or stem in apart]
        found += [prefix + stem for stem in stems]
    return sorted(found)
