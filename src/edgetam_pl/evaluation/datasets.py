"""Data sets on disk, each with the rule it is scored by.

A sequence is opened when its turn comes. Everything that does not fit is named: strict is the default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetam_pl.data.toy import toy_clip
from edgetam_pl.evaluation.clips import Clip, ClipObject, Frame, Masks
from edgetam_pl.evaluation.folders import lines_of, some_of
from edgetam_pl.evaluation.image_sets import image_opener
from edgetam_pl.evaluation.rules import RULES, Opener, SetRule
from edgetam_pl.evaluation.video_sets import video_opener


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
    opener, available = image_opener(base) if kind == "images" else video_opener(base, rule, unseen)
    names = _chosen(base, rule, available, sequences, split)
    names = _complete(opener, names, strict=strict)
    if limit > 0:
        names = names[:limit]
    if not names:
        raise ValueError(f"There is no sequence in {base}; expected folders of frames below {opener.place()}.")
    return DataSet(kind, tuple(names), rule, opener)


# ---------------------------------------------------------------------- which sequences


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
        raise ValueError(f"{root} has no sequence {some_of(unknown)}; it has {some_of(available)}.")
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
    names = [Path(line.split()[0]).parent.name if "/" in line.split()[0] else line.split()[0] for line in lines_of(path)]
    return list(dict.fromkeys(names))


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


# ---------------------------------------------------------------------- frames of videos as images


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
