"""Which videos train, which validate, which test: by whole videos, drawn with a seed, short and long ones alike.

A video is never cut: frames of one video look alike, and a model that saw some of them is not tested by the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.layout import Layout, open_layout
from edgetam_pl.io.atomic import write_text
from edgetam_pl.io.errors import BadSampleError
from edgetam_pl.io.folders import files_in, lines_of, list_in
from edgetam_pl.io.video import VIDEO_FILES

PARTS = ("train", "val", "test")
"""The lists that are written, NAME.txt each."""


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    lengths: Mapping[str, int]
    """Annotated frames of each video that can be used."""
    left_out: Mapping[str, str]
    """Other names, and why they cannot be used."""


def look(root: Path, *, source: str) -> Found:
    """The videos of a folder, by names and listings alone: nothing is decoded.

    Raises:
        ValueError: the folder is not laid out as `source` says, or holds no video with masks.
    """
    layout = open_layout(ShardsConfig(source=source, root=str(root)))
    left_out = {**_without_masks(root, layout), **layout.incomplete()}
    lengths = {}
    for name in layout.names():
        if name in left_out:
            continue
        try:
            lengths[name] = len(layout.clip(name).masks.annotated)
        except BadSampleError as error:
            left_out[name] = str(error)
    return Found(lengths, left_out)


def split(lengths: Mapping[str, int], *, val: float, test: float, seed: int) -> dict[str, list[str]]:
    """Names of each part, sorted. Videos are ordered by length and cut into as many strata as a part needs; each stratum
    gives one, drawn by the seed. The same names, lengths and seed give the same lists.

    Args:
        lengths: frames of each video.
        val: share of the videos that validate: at least one video, unless the share is 0.
        test: share that is kept for the last test, in the same way.

    Raises:
        ValueError: shares that are none, or too few videos to leave one for training.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val={val:g} and test={test:g} leave nothing to train on; they are shares of 1, e.g. 0.1 each.")
    counts = {part: max(1, round(share * len(lengths))) if share else 0 for part, share in (("val", val), ("test", test))}
    needed = 1 + sum(counts.values())
    if len(lengths) < needed:
        wanted = "".join(f", {part}" for part, count in counts.items() if count)
        raise ValueError(
            f"{_videos(len(lengths))} cannot be split into train{wanted}: at least {_videos(needed)} with masks are "
            "needed, since frames of one video do not test what the others taught. "
            "Annotate more videos" + (", or leave out the test (--test 0)." if counts["test"] and len(lengths) > 1 else ".")
        )
    rng = np.random.default_rng(seed)
    chance = dict(zip(sorted(lengths), rng.random(len(lengths)), strict=True))
    rest = sorted(lengths, key=lambda name: (lengths[name], chance[name]))  # equally long ones in no order
    parts: dict[str, list[str]] = {}
    for part, count in counts.items():
        chosen = {str(rng.choice(stratum)) for stratum in np.array_split(np.array(rest, object), count)} if count else set()
        parts[part] = sorted(chosen)
        rest = [name for name in rest if name not in chosen]
    return {"train": sorted(rest), **parts}


def write_lists(root: Path, parts: Mapping[str, Sequence[str]], out: Path) -> list[Path]:
    """Write PART.txt with a name a line into `out`, for `split=PART` of shards and evaluation; empty parts have no file.

    Raises:
        ValueError: another list is there already, or the data set has a list of that name that would be read instead.
    """
    paths = {part: out / f"{part}.txt" for part, names in parts.items() if names}
    for part, path in paths.items():
        if path.is_file() and lines_of(path) != list(parts[part]):
            raise ValueError(
                f"{path} holds another list. Shards may have been made from it, and results of the two cannot be compared: "
                "remove the old lists if no training uses them, or write new ones elsewhere (--out FOLDER)."
            )
        if out == root and not path.is_file() and (other := _named(root, part)) is not None:
            raise ValueError(
                f"split={part} means {other} here, a list that the data set comes with. Use that, or write ours elsewhere "
                f"(--out FOLDER, then split=FOLDER/{part}.txt)."
            )
    return [write_text(path, "".join(f"{name}\n" for name in parts[part])) for part, path in paths.items()]


def _named(root: Path, part: str) -> Path | None:
    try:
        return list_in(root, part)
    except ValueError:
        return None


def _without_masks(root: Path, layout: Layout) -> dict[str, str]:
    """Video files beside which no masks lie; only folders of video files have any."""
    names = {path.stem for path in files_in(root / "videos", VIDEO_FILES)} - set(layout.present())
    return {name: f"{name} has no masks" for name in sorted(names)}


def _videos(count: int) -> str:
    return "1 video" if count == 1 else f"{count} videos"
