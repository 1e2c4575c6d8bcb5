"""Videos in the folders their authors hand out: JPEGImages and Annotations, and the variants of DAVIS and SA-V."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgetam_pl.evaluation.clips import Clip, ClipObject
from edgetam_pl.evaluation.folders import IMAGE_SUFFIXES, files_in, lines_of, some_of
from edgetam_pl.evaluation.rules import VOID, Opener, SetRule
from edgetam_pl.evaluation.sources import FileFrames, FolderTruths, PaletteTruths, numbered, read_sized
from edgetam_pl.io.label_png import labels_in, read_labels


def annotations_folder(root: Path) -> Path:
    """Where the masks of a data set lie; the root itself when it has no folder of a known name."""
    names = ("Annotations/480p", "Annotations_6fps", "Annotations/Full-Resolution", "Annotations")
    return next((root / name for name in names if (root / name).is_dir()), root)


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
        frames = FileFrames(tuple(numbered(files_in(self.frames / name, IMAGE_SUFFIXES))))
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


def video_opener(root: Path, rule: SetRule, unseen: str | Path | None) -> tuple[Opener, list[str]]:
    names = ("JPEGImages/480p", "JPEGImages_24fps", "JPEGImages/Full-Resolution", "JPEGImages")
    frames = next((root / name for name in names if (root / name).is_dir()), None)
    masks = annotations_folder(root)
    if frames is None or masks == root:
        raise ValueError(f"{root} should hold JPEGImages/ and Annotations/ (SA-V: JPEGImages_24fps/, Annotations_6fps/).")
    listed = frozenset() if unseen is None else frozenset(lines_of(Path(unseen)))
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
    files = files_in(folder, (".png",))
    strangers = [path.name for path in files if path.stem not in by_stem]
    if strangers:
        raise ValueError(f"{folder} has masks without a frame: {some_of(strangers)}. Masks are called as their frames are.")
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
