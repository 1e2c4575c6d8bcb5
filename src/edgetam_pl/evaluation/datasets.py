"""Data sets on disk, each with the rule it is scored by.

A sequence is opened when its turn comes. Everything that does not fit is named: strict is the default.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetam_pl.config import ShardsConfig
from edgetam_pl.config.choices import did_you_mean
from edgetam_pl.datasets.layout import SOURCES, AnnotatedClip, Layout, open_layout
from edgetam_pl.datasets.layouts.images import Images
from edgetam_pl.datasets.layouts.toy import Toy
from edgetam_pl.evaluation.clips import Clip, ClipObject, Truths
from edgetam_pl.evaluation.rules import RULES, SetRule, rule_of
from edgetam_pl.io.errors import Cause
from edgetam_pl.io.folders import lines_of, list_in, listed, natural, some_of
from edgetam_pl.io.rle import Rle


@dataclass(frozen=True)
class Groups:
    """Which objects count as unseen, for the score G of YouTube-VOS and LVOS."""

    unseen: frozenset[str] = frozenset()
    """Categories and sequences."""
    categories: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Sequence, object -> category."""

    def of(self, sequence: str, name: str) -> str:
        """seen | unseen, or empty where nothing is unseen."""
        if not self.unseen:
            return ""
        category = self.categories.get(sequence, {}).get(name, "")
        return "unseen" if sequence in self.unseen or category in self.unseen else "seen"


@dataclass(frozen=True)
class DataSet:
    """Sequences by name, opened one at a time."""

    kind: str
    names: tuple[str, ...]
    rule: SetRule
    layout: Layout
    groups: Groups = field(default_factory=lambda: Groups())

    def __len__(self) -> int:
        return len(self.names)

    def clip(self, name: str) -> Clip:
        """Open one sequence."""
        return clip_of(self.layout.clip(name), self.rule, self.groups, image=self.layout.kind == "image")

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
    categories: str = "",
    strict: bool = True,
    toy_size: int = 128,
) -> DataSet:
    """Find a data set on disk.

    Args:
        kind: one of `RULES`; `folder` is also videos/ and masks/ as they train.
        root: the folder with JPEGImages and Annotations (or images and masks); toy[:seed[:clips]] for generated clips.
        sequences: these alone, in this order.
        split: a part of the data set (COCO's val2017), or a list of sequences, below the root or anywhere; None: the
            one the data set comes with, if it is there.
        limit: the first so many; 0 for all.
        categories: of COCO and Labelme these alone, with commas between; empty: all.
        unseen: a list of categories or sequences that count as unseen, for G.
        strict: a sequence that lacks frames or masks is an error; otherwise it is left out.
        toy_size: side of generated frames in pixels.

    Raises:
        ValueError: an unknown kind, no such folder, nothing in it, or sequences in one folder and not in the other.
    """
    kind = {"davis": "davis17"}.get(kind, kind)
    if kind not in RULES and kind not in SOURCES:
        known = [*RULES, *(name for name in SOURCES if name not in RULES)]
        raise ValueError(
            f"There is no data set {kind!r}; known ones: {', '.join(known)}. Any DAVIS-like folder is 'folder'."
            f"{did_you_mean(kind, known)}"
        )
    if kind == "toy" or str(root).split(":")[0] == "toy":
        return _toy(str(root) or "toy", sequences=sequences, limit=limit, size=toy_size)
    base = Path(root).expanduser()
    if not base.is_dir():
        raise ValueError(f"There is no folder {base}; give root, the folder that holds {kind}.")
    if kind == "folder" and (base / "videos").is_dir() and not (base / "JPEGImages").is_dir():
        kind = "videos"  # one's own, laid out as they train
    source = RULES[kind].layout if kind in RULES else kind
    layout = open_layout(
        ShardsConfig(source=source, root=str(base), split=split or "", categories=categories, max_area=math.inf)
    )
    if isinstance(layout, Images) and (base / "sa1b_json").is_dir():
        layout = replace(layout, masks=base / "sa1b_json")
    rule = rule_of(kind, layout.kind)
    incomplete = layout.incomplete()
    available = sorted({*layout.present(), *incomplete})
    listed_in = rule.split if split is None and (base / rule.split).is_file() else layout.split
    names = _chosen(base, available, sequences, listed_in)
    lacking = [name for name in names if name in incomplete]
    if lacking and strict:
        others = f" ({len(lacking) - 1} more such)" if len(lacking) > 1 else ""
        raise ValueError(
            f"{incomplete[lacking[0]]}{others}. Complete the data, or leave such sequences out with strict=false."
        )
    names = [name for name in names if name not in incomplete][: limit or None]
    if not names:
        raise ValueError(f"There is no sequence in {base}; expected a {layout.expected()}.")
    groups = Groups()
    if rule.grouped and unseen is not None:
        groups = Groups(frozenset(lines_of(Path(unseen))), _categories(base))
    return DataSet(kind, tuple(names), rule, layout, groups)


def _chosen(root: Path, available: list[str], sequences: Sequence[str], split: str) -> list[str]:
    """The sequences asked for, in the order asked for."""
    if not sequences and not split:
        return available
    names, unknown = listed(available, sequences or lines_of(list_in(root, split)))
    if unknown:
        raise ValueError(f"{root} has no sequence {some_of(unknown)}; it has {some_of(available)}.")
    return names


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
    return DataSet("toy", names, RULES["toy"], Toy(0, count, num_frames=24, size=size, objects=3))


# ---------------------------------------------------------------------- a clip by the rule of its data set


def clip_of(found: AnnotatedClip, rule: SetRule, groups: Groups, *, image: bool) -> Clip:
    """The clip as it is evaluated: which objects, from which frame on. All masks are read once.

    Raises:
        ValueError: a mask without a frame or of another size, or no object at all.
    """
    for fault in found.faults:
        if fault.cause not in (Cause.NO_MASK, Cause.VOID):  # not annotated, or not asked about
            raise fault
    frames, annotated = found.frames, tuple(found.masks.annotated)
    size = frames.size
    if annotated and annotated[-1] >= len(frames.stems):
        raise ValueError(
            f"{found.name} has a mask of frame {annotated[-1]}, but its {len(frames.stems)} frames end with number "
            f"{len(frames.stems) - 1}. Is the video complete, and are masks numbered from 0?"
        )
    first_seen: dict[str, int] = {}
    for t in annotated:
        for name, mask in found.masks.read(t).items():
            shape = mask.size if isinstance(mask, Rle) else mask.shape
            if tuple(shape) != size:
                raise ValueError(
                    f"{found.name}: mask {frames.stems[t]}.png is {shape} and its frame {size} (height, width); they must "
                    f"have one size."
                )
            first_seen.setdefault(name, t)
    names = [name for name, t in first_seen.items() if not rule.first_frame_only or t == annotated[0]]
    if rule.binary:
        first = min(first_seen.values(), default=None)
        objects = [] if first is None else [ClipObject("1", first, annotated)]
    elif rule.per_object:
        objects = [ClipObject(name, first_seen[name], tuple(found.masks.frames_of(name))) for name in names]
    else:
        # Of a hidden truth only the frames are there on which objects appear: nothing after them can be scored.
        hidden = len(frames.stems) > 1 and len(annotated) <= len({first_seen[name] for name in names})
        objects = [ClipObject(name, t, (t,) if hidden else annotated) for name, t in first_seen.items() if name in names]
    if not objects and not image:
        where = "its first mask" if rule.first_frame_only and first_seen else "any frame"
        raise ValueError(f"{found.name} shows no object on {where}; leave the sequence out.")
    objects = [replace(item, group=groups.of(found.name, item.name)) for item in objects]
    objects.sort(key=lambda item: natural(item.name))
    return Clip(found.name, frames, Truths(found.masks, tuple(objects), size, together=rule.binary))


def _categories(root: Path) -> dict[str, dict[str, str]]:
    """Category of each object, from the meta.json that YouTube-VOS and LVOS come with; empty without one."""
    names = (root / "meta.json", root / f"{root.name}_meta.json", root.parent / f"{root.name}_meta.json")
    file = next((path for path in names if path.is_file()), None)
    if file is None:
        return {}
    videos = json.loads(file.read_text())["videos"]
    return {v: {o: item.get("category", "") for o, item in entry["objects"].items()} for v, entry in videos.items()}


# ---------------------------------------------------------------------- frames of videos as images


@dataclass(frozen=True)
class FramesAsImages(DataSet):
    """The annotated frames of videos, each an image of its own: how Segment Anything is measured on video sets."""

    def clip(self, name: str) -> Clip:
        video, _, stem = name.rpartition("/")
        clip = clip_of(self.layout.clip(video), rule_of(self.kind, "video"), self.groups, image=False)
        t = list(clip.stems).index(stem)
        truth = {item.name: mask for item, mask in zip(clip.objects, clip.truths.read(t)) if mask.any()}
        masks = np.stack(list(truth.values())) if truth else np.zeros((0, *clip.size), bool)
        return Clip.of_arrays(name, clip.frames.read(t)[None], masks[None], stems=(stem,), objects=tuple(truth))


def as_images(videos: DataSet, *, every: int = 1) -> DataSet:
    """Every so many-th annotated frame of each video, as a data set of images."""
    names = []
    for clip in videos:
        annotated = sorted({t for item in clip.objects for t in item.annotated})
        names += [f"{clip.name}/{clip.stems[t]}" for t in annotated[::every]]
    return FramesAsImages(videos.kind, tuple(names), RULES["images"], videos.layout, videos.groups)
