"""Data sets in the folders their authors hand out, each with the rule it is scored by (evaluation rules of DAVIS, SA-V,
MOSE, YouTube-VOS, LVOS, VOST, PUMaVOS, and the images of Segment Anything).

A sequence is opened when its turn comes. Everything that does not fit is named: strict is the default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetam_pl.data.toy import toy_clip
from edgetam_pl.evaluation.clips import Clip, ClipObject, Frame, Masks
from edgetam_pl.evaluation.label_png import labels_in, read_labels
from edgetam_pl.evaluation.scoring import ScoreRule
from edgetam_pl.evaluation.sources import FileFrames, FolderTruths, PaletteTruths, RleTruths, numbered, read_sized

VOID = 255
"""A label nobody is asked about; it is background for truth and prediction alike (DAVIS toolkit)."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class SetRule:
    """How a data set is followed, scored and handed in."""

    score: ScoreRule = field(default_factory=ScoreRule)
    non_overlap: bool = True
    """A pixel has one object: sets with one PNG a frame. SA-V's objects have a folder each and may overlap."""
    per_object: bool = False
    """A folder an object, in truth and predictions (SA-V)."""
    binary: bool = False
    """All labels are one object (DAVIS 2016)."""
    first_frame_only: bool = False
    """Objects are those of the first frame; what appears later is not asked about (DAVIS)."""
    grouped: bool = False
    """Scored by G, over seen and unseen objects (YouTube-VOS, LVOS)."""
    split: str = ""
    """The list of sequences below the root, if there is one."""
    note: str = ""
    """What a reader of the numbers should know."""


_APPEARANCE = ScoreRule(counts_from="appearance")
RULES: dict[str, SetRule] = {
    "davis16": SetRule(binary=True, first_frame_only=True, split="ImageSets/480p/val.txt"),
    "davis17": SetRule(first_frame_only=True, split="ImageSets/2017/val.txt"),
    "mose": SetRule(score=_APPEARANCE, note="truth of the validation set is with the challenge server: export only"),
    "sav": SetRule(non_overlap=False, per_object=True, note="frames at 24 FPS, scored on the 6 FPS that are annotated"),
    "ytvos19": SetRule(score=_APPEARANCE, grouped=True, note="objects are followed from the frame where they appear"),
    "lvos": SetRule(score=_APPEARANCE, grouped=True, note="objects are followed from the frame where they appear"),
    "vost": SetRule(score=ScoreRule(boundary=False), split="ImageSets/val.txt", note="J alone"),
    "pumavos": SetRule(score=_APPEARANCE),
    "folder": SetRule(score=_APPEARANCE, note="any folder laid out as DAVIS is"),
    "toy": SetRule(note="generated clips"),
    "images": SetRule(score=ScoreRule(skip_first_and_last=False, boundary=False), non_overlap=False),
}
"""Data sets by name. `folder` is for any other that is laid out as DAVIS is."""


@dataclass(frozen=True)
class DataSet:
    """Sequences by name, opened one at a time."""

    kind: str
    names: tuple[str, ...]
    rule: SetRule
    opener: Opener

    def __len__(self) -> int:
        return len(self.names)

    def clip(self, name: str) -> Clip:
        """Open one sequence."""
        return self.opener.open(name, self.rule)

    def __iter__(self) -> Iterator[Clip]:
        return (self.clip(name) for name in self.names)

    @cached_property
    def list_hash(self) -> str:
        """Of the names, in order: two tables agree on it, or they are about different videos."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:12]


def open_data(
    kind: str,
    root: str | Path = "",
    *,
    sequences: Sequence[str] = (),
    split: str | None = None,
    limit: int = 0,
    unseen: str | Path | None = None,
    strict: bool = True,
    toy_size: int = 128,
) -> DataSet:
    """Find a data set on disk.

    Args:
        kind: one of `RULES`.
        root: the folder with JPEGImages and Annotations (or images and masks); toy[:seed[:clips]] for generated clips.
        sequences: these alone, in this order.
        split: a list of sequences, below the root or anywhere; None: the one the data set comes with, if it is there.
        limit: the first so many; 0 for all.
        unseen: a list of categories or sequences that count as unseen, for G.
        strict: a sequence that lacks frames or masks is an error; otherwise it is left out.
        toy_size: side of generated frames in pixels.

    Raises:
        ValueError: an unknown kind, no such folder, nothing in it, or sequences in one folder and not in the other.
    """
    kind = {"davis": "davis17"}.get(kind, kind)
    if kind not in RULES:
        raise ValueError(
            f"There is no data set {kind!r}; known ones: {', '.join(RULES)}. Any DAVIS-like folder is 'folder'."
        )
    if kind == "toy" or str(root).split(":")[0] == "toy":
        return _toy(str(root) or "toy", sequences=sequences, limit=limit, size=toy_size)
    base = Path(root)
    if not base.is_dir():
        raise ValueError(f"There is no folder {base}; give root, the folder that holds {kind}.")
    rule = RULES[kind]
    opener, available = _image_opener(base) if kind == "images" else _video_opener(base, rule, unseen)
    names = _chosen(base, rule, available, sequences, split)
    names = _complete(opener, names, strict=strict)
    if limit > 0:
        names = names[:limit]
    if not names:
        raise ValueError(f"There is no sequence in {base}; expected folders of frames below {opener.place()}.")
    return DataSet(kind, tuple(names), rule, opener)


# ---------------------------------------------------------------------- sources of frames and masks


class Opener:
    """Knows where the sequences of a data set lie."""

    def place(self) -> str:
        """Where sequences are looked for."""
        raise NotImplementedError

    def open(self, name: str, rule: SetRule) -> Clip:
        """The clip of that name."""
        raise NotImplementedError

    def missing(self, name: str) -> str:
        """What a sequence lacks, in words; empty when it is whole."""
        return ""


def annotations_folder(root: Path) -> Path:
    """Where the masks of a data set lie; the root itself when it has no folder of a known name."""
    names = ("Annotations/480p", "Annotations_6fps", "Annotations/Full-Resolution", "Annotations")
    return next((root / name for name in names if (root / name).is_dir()), root)


# ---------------------------------------------------------------------- videos


@dataclass(frozen=True)
class VideoOpener(Opener):
    """JPEGImages/<sequence>/ and Annotations/<sequence>/, the latter with a folder an object in SA-V."""

    frames: Path
    masks: Path
    categories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Sequence, object -> category."""
    unseen: frozenset[str] = frozenset()
    """Categories and sequences."""

    def place(self) -> str:
        return str(self.frames)

    def missing(self, name: str) -> str:
        gone = [str(folder / name) for folder in (self.frames, self.masks) if not (folder / name).is_dir()]
        return f"{name} is in one folder and not in the other: there is no {' and no '.join(gone)}" if gone else ""

    def open(self, name: str, rule: SetRule) -> Clip:
        frames = FileFrames(tuple(numbered(_files(self.frames / name, IMAGE_SUFFIXES))))
        if not frames.paths:
            raise ValueError(f"{self.frames / name} holds no frames ({', '.join(IMAGE_SUFFIXES)}).")
        by_stem = {stem: t for t, stem in enumerate(frames.stems)}
        if len(by_stem) < len(frames.paths):
            raise ValueError(f"{self.frames / name} holds two files of one frame; the stems of its frames must differ.")
        folder = self.masks / name
        if rule.per_object:
            truths = _folder_truths(folder, by_stem, frames.size)
        else:
            truths = _palette_truths(folder, by_stem, frames.size, rule)
        if rule.grouped and self.unseen:
            groups = self.categories.get(name, {})
            grouped = [replace(o, group=self._group(name, groups.get(o.name, ""))) for o in truths.objects]
            truths = replace(truths, objects=tuple(grouped))
        return Clip(name, frames, truths)

    def _group(self, sequence: str, category: str) -> str:
        return "unseen" if sequence in self.unseen or category in self.unseen else "seen"


def _video_opener(root: Path, rule: SetRule, unseen: str | Path | None) -> tuple[Opener, list[str]]:
    names = ("JPEGImages/480p", "JPEGImages_24fps", "JPEGImages/Full-Resolution", "JPEGImages")
    frames = next((root / name for name in names if (root / name).is_dir()), None)
    masks = annotations_folder(root)
    if frames is None or masks == root:
        raise ValueError(f"{root} should hold JPEGImages/ and Annotations/ (SA-V: JPEGImages_24fps/, Annotations_6fps/).")
    listed = frozenset() if unseen is None else frozenset(_lines(Path(unseen)))
    available = sorted({path.name for folder in (frames, masks) for path in folder.iterdir() if path.is_dir()})
    return VideoOpener(frames, masks, _categories(root) if rule.grouped else {}, listed), available


def _palette_truths(folder: Path, by_stem: Mapping[str, int], size: tuple[int, int], rule: SetRule) -> PaletteTruths:
    paths = _by_frame(folder, by_stem)
    annotated = tuple(sorted(paths))
    first_seen: dict[int, int] = {}
    only_void = True
    for t in annotated:
        found = labels_in(read_sized(paths[t], size))
        only_void = only_void and set(found) <= {0, VOID}
        for label in found:
            if label not in (0, VOID):
                first_seen.setdefault(label, t)
    if rule.binary or (only_void and not first_seen):
        starts = [t for t in annotated if read_labels(paths[t]).any()][:1]
        if not starts:
            raise ValueError(f"{folder} shows no object on any frame; leave the sequence out.")
        return PaletteTruths((ClipObject("1", starts[0], annotated),), (0,), paths, size)
    labels = tuple(sorted(k for k, t in first_seen.items() if not rule.first_frame_only or t == annotated[0]))
    if not labels:
        where = "its first mask" if rule.first_frame_only else "any frame"
        raise ValueError(f"{folder} shows no object on {where}; leave the sequence out.")
    # Of a hidden truth only the frames are there on which objects appear: nothing after them can be scored.
    hidden = len(by_stem) > 1 and len(annotated) <= len({first_seen[k] for k in labels})
    objects = [ClipObject(str(k), first_seen[k], (first_seen[k],) if hidden else annotated) for k in labels]
    return PaletteTruths(tuple(objects), labels, paths, size)


def _folder_truths(folder: Path, by_stem: Mapping[str, int], size: tuple[int, int]) -> FolderTruths:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise ValueError(f"{folder} holds no folder of an object; SA-V has one folder an object, with PNGs in it.")
    objects, every = [], []
    for name in names:
        paths = _by_frame(folder / name, by_stem)
        shown = [t for t in sorted(paths) if read_sized(paths[t], size).any()][:1]
        if not shown:
            raise ValueError(f"{folder / name} shows nothing on any frame; leave the object out.")
        objects.append(ClipObject(name, shown[0], tuple(sorted(paths))))
        every.append(paths)
    return FolderTruths(tuple(objects), tuple(every), size)


def _by_frame(folder: Path, by_stem: Mapping[str, int]) -> dict[int, Path]:
    files = _files(folder, (".png",))
    strangers = [path.name for path in files if path.stem not in by_stem]
    if strangers:
        raise ValueError(f"{folder} has masks without a frame: {_some(strangers)}. Masks are called as their frames are.")
    if not files:
        raise ValueError(f"{folder} holds no masks (PNG).")
    return {by_stem[path.stem]: path for path in files}


def _categories(root: Path) -> dict[str, dict[str, str]]:
    """Category of each object, from the meta.json that YouTube-VOS and LVOS come with; empty without one."""
    names = (root / "meta.json", root / f"{root.name}_meta.json", root.parent / f"{root.name}_meta.json")
    file = next((path for path in names if path.is_file()), None)
    if file is None:
        return {}
    videos = json.loads(file.read_text())["videos"]
    return {v: {o: item.get("category", "") for o, item in said["objects"].items()} for v, said in videos.items()}


# ---------------------------------------------------------------------- images


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


def _image_opener(root: Path) -> tuple[Opener, list[str]]:
    masks = next((root / name for name in ("sa1b_json", "masks") if (root / name).is_dir()), None)
    if masks is None or not (root / "images").is_dir():
        raise ValueError(f"{root} should hold images/ and sa1b_json/ or masks/.")
    images = {path.stem: path for path in _files(root / "images", IMAGE_SUFFIXES)}
    return ImageOpener(images, masks), sorted({*images, *(path.stem for path in _files(masks, (".json", ".png")))})


@dataclass(frozen=True)
class FramesAsImages(Opener):
    """The annotated frames of videos, each an image of its own: how Segment Anything is measured on video sets."""

    videos: DataSet

    def place(self) -> str:
        return self.videos.opener.place()

    def open(self, name: str, rule: SetRule) -> Clip:
        video, _, stem = name.rpartition("/")
        clip = self.videos.clip(video)
        t = list(clip.stems).index(stem)
        shown = np.flatnonzero(clip.truths.read(t).any(axis=(1, 2))).tolist()
        return Clip(name, _OneFrame(clip, t), _OneTruth(clip, t, tuple(shown)))


def as_images(videos: DataSet, *, every: int = 1) -> DataSet:
    """Every so many-th annotated frame of each video, as a data set of images."""
    names = []
    for clip in videos:
        annotated = sorted({t for item in clip.objects for t in item.annotated})
        names += [f"{clip.name}/{clip.stems[t]}" for t in annotated[::every]]
    return DataSet(videos.kind, tuple(names), RULES["images"], FramesAsImages(videos))


@dataclass(frozen=True)
class _OneFrame:
    clip: Clip
    t: int

    @property
    def stems(self) -> tuple[str, ...]:
        return (self.clip.stems[self.t],)

    @property
    def size(self) -> tuple[int, int]:
        return self.clip.size

    def read(self, t: int) -> Frame:
        return self.clip.frames.read(self.t)

    def fingerprint(self) -> str:
        return f"{self.clip.frames.fingerprint()} {self.t}"


@dataclass(frozen=True)
class _OneTruth:
    clip: Clip
    t: int
    shown: tuple[int, ...]

    @property
    def objects(self) -> tuple[ClipObject, ...]:
        return tuple(ClipObject(self.clip.objects[index].name, 0, (0,)) for index in self.shown)

    def read(self, t: int) -> Masks:
        return self.clip.truths.read(self.t)[list(self.shown)]

    def fingerprint(self) -> str:
        return f"{self.clip.truths.fingerprint()} {self.t}"


# ---------------------------------------------------------------------- generated clips


@dataclass(frozen=True)
class ToyOpener(Opener):
    """Generated clips of 24 frames with 3 objects."""

    size: int = 128
    num_frames: int = 24
    num_objects: int = 3

    def place(self) -> str:
        return "toy"

    def open(self, name: str, rule: SetRule) -> Clip:
        return Clip.of_arrays(name, *toy_clip(int(name.rpartition("-")[2]), self.num_frames, self.size, self.num_objects))


def _toy(spec: str, *, sequences: Sequence[str], limit: int, size: int) -> DataSet:
    """Clips of toy[:seed[:clips]]: seeds count up from the given one, which is far from those of training by default."""
    words = spec.split(":")
    if words[0] != "toy" or len(words) > 3 or not all(word.isdigit() for word in words[1:]):
        raise ValueError(f"{spec!r} is not toy[:seed[:clips]], for example toy:1000000:8.")
    seed = int(words[1]) if len(words) > 1 else 1_000_000
    count = int(words[2]) if len(words) > 2 else 8
    names = tuple(sequences) or tuple(
        f"toy-{number}" for number in range(seed, seed + (min(count, limit) if limit else count))
    )
    return DataSet("toy", names, RULES["toy"], ToyOpener(size=size))


# ---------------------------------------------------------------------- helpers


def _chosen(root: Path, rule: SetRule, available: list[str], sequences: Sequence[str], split: str | None) -> list[str]:
    """The sequences asked for, in the order asked for."""
    if sequences:
        names = list(sequences)
    else:
        given = split if split is not None else rule.split
        file = next((path for path in (root / given, Path(given)) if given and path.is_file()), None)
        if file is None and split:
            raise ValueError(f"There is no list of sequences at {split}, neither below {root}.")
        names = available if file is None else _split_names(file)
    unknown = [name for name in names if name not in available]
    if unknown:
        raise ValueError(f"{root} has no sequence {_some(unknown)}; it has {_some(available)}.")
    return names


def _complete(opener: Opener, names: list[str], *, strict: bool) -> list[str]:
    lacking = {name: lack for name in names if (lack := opener.missing(name))}
    if lacking and strict:
        first = next(iter(lacking.values()))
        others = f" ({len(lacking) - 1} more such)" if len(lacking) > 1 else ""
        raise ValueError(f"{first}{others}. Complete the data, or leave such sequences out with strict=false.")
    return [name for name in names if name not in lacking]


def _split_names(path: Path) -> list[str]:
    """Names in a list: one a line; DAVIS 2016 lists pairs of files, of which the folder is the sequence."""
    names = [Path(line.split()[0]).parent.name if "/" in line.split()[0] else line.split()[0] for line in _lines(path)]
    return list(dict.fromkeys(names))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"There is no list at {path}.")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))


def _some(names: Sequence[str]) -> str:
    """The first few, in words."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
