"""Folders of data sets: what is in them, and one sentence where it is not what was expected."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError, Cause

IMAGE_FILES = (".jpg", ".jpeg", ".png")
VIDEO_FILES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


def frame_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_FILES)
    return sorted(files, key=lambda path: (number_of(path), path.stem))


def number_of(path: Path) -> int:
    """The frame number in a file's name: the last digits of its stem."""
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def root_of(config: ShardsConfig) -> Path:
    if not config.root:
        raise ValueError(f"source={config.source} needs root=FOLDER, where the data set lies.")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"root={config.root} is not a folder.")
    return root


def folder_in(root: Path, name: str, config: ShardsConfig) -> Path:
    if not (root / name).is_dir():
        raise ValueError(
            f"{root} has no folder {name}; source={config.source} expects one. A folder without masks cannot be used: see "
            f"docs/shards.md for the layouts."
        )
    return root / name


def part_of(root: Path, name: str, config: ShardsConfig) -> Path:
    """root/train where it exists, or the root itself when it is that part already."""
    if (root / name).is_dir():
        return root / name
    if (root / "JPEGImages").is_dir():
        return root
    raise ValueError(f"{root} has neither {name}/JPEGImages nor JPEGImages; source={config.source} expects one of them.")


def resolution_in(folder: Path) -> Path:
    """DAVIS keeps 480p, 1080p or Full-Resolution folders between."""
    for name in ("480p", "1080p", "Full-Resolution"):
        if (folder / name).is_dir():
            return folder / name
    return folder


def folders_in(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if path.is_dir())


def below(root: Path, suffix: str, *, beside: str = "", apart: Collection[str] = ()) -> list[str]:
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
