"""What lies in a folder: files of data and nothing else, in the order of the numbers in their names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgetam_pl.config.choices import did_you_mean
from edgetam_pl.io.errors import BadSampleError, Cause

JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
"""What systems leave in folders, beside everything that begins with a dot (`._a.png`, `.DS_Store`, `.ipynb_checkpoints`)."""


def is_junk(name: str) -> bool:
    """Is this file or folder one that a system left behind?"""
    return name.startswith(".") or name in JUNK


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files of these kinds (lower-case suffixes; `.JPG` counts as `.jpg`) by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not is_junk(path.name))
    return sorted(found)


def file_called(place: Path, suffixes: Sequence[str]) -> Path | None:
    """The file at `place`, a path without suffix, with one of these; the first of them is tried before the rest."""
    first = place.with_name(place.name + suffixes[0])
    if first.is_file():
        return first
    return next((path for path in files_in(place.parent, suffixes) if path.stem == place.name), None)


def strangers_in(folder: Path, suffixes: Collection[str], kind: str) -> list[str]:
    """A sentence on each file of a folder whose suffix is none of these."""
    found = [path.name for path in sorted(folder.iterdir()) if path.is_file() and not is_junk(path.name)]
    return [f"{name} is no {kind} of a known kind" for name in found if Path(name).suffix.lower() not in suffixes]


def folders_in(parent: Path) -> list[str]:
    """Names of the folders in a folder; none where there is no such folder."""
    if not parent.is_dir():
        return []
    return sorted(path.name for path in parent.iterdir() if not is_junk(path.name) and path.is_dir())


def files_below(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(relative path with a slash at its end, names of files) of a folder and all below it, links followed once."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not is_junk(name)]
        place = os.path.realpath(folder)
        if place in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(place)
        below = os.path.relpath(folder, root)
        yield "" if below == "." else f"{below}/", [name for name in files if not is_junk(name)]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorting key of names with numbers in them: frame2 before frame10."""
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in re.split(r"(\d+)", name) if word]


def numbers_of(stems: Sequence[str]) -> list[int]:
    """The frame number in each name of a folder: the part that varies over the folder and counts up.

    Where names differ in nothing but numbers, it is the last number that is different in every name. Where other parts
    differ too (a hash at the end), it is the first such number with the same text before it, or else the one whose values
    lie closest together. Names without numbers are counted in their order.

    >>> numbers_of(["00000_obj1", "00001_obj1"])
    [0, 1]
    >>> numbers_of(["frame_0007_jpg.rf.c81e728d", "frame_0008_jpg.rf.a87ff679a"])
    [7, 8]
    """
    words = [re.split(r"(\d+)", stem) for stem in stems]  # text, number, text, number, ..., text
    shared = min((len(parts) // 2 for parts in words), default=0)
    if not shared:
        place = {stem: number for number, stem in enumerate(sorted(stems, key=natural))}
        return [place[stem] for stem in stems]
    columns = {k: [int(parts[2 * k + 1]) for parts in words] for k in range(shared)}
    distinct = [k for k, column in columns.items() if len(set(column)) == len(stems)]
    if not distinct:
        return [int(parts[-2]) for parts in words]
    if len({tuple(parts[::2]) for parts in words}) == 1:
        return columns[distinct[-1]]
    same_before = [k for k in distinct if len({tuple(parts[: 2 * k + 1 : 2]) for parts in words}) == 1]
    return columns[same_before[0] if same_before else min(distinct, key=lambda k: max(columns[k]) - min(columns[k]))]


def numbered(paths: Iterable[Path]) -> dict[int, Path]:
    """Files by their frame number, in its order.

    Raises:
        BadSampleError: two files have one number, or one has none and others have; they are named.
    """
    files = list(paths)
    odd = [path for path in files if not re.search(r"\d", path.stem)]
    if odd and len(odd) < len(files):  # counting all of them would give each the number of another
        raise BadSampleError(
            Cause.ANNOTATION,
            f"{odd[0]} has no number in its name, and {len(files) - len(odd)} files beside it have one: which frame is it? "
            "Give it a number, or move it away.",
        )
    found: dict[int, Path] = {}
    for number, path in zip(numbers_of([path.stem for path in files]), files):
        if number in found:
            raise BadSampleError(
                Cause.ANNOTATION,
                f"{found[number]} and {path.name} both have the frame number {number}; give each frame one file.",
            )
        found[number] = path
    return dict(sorted(found.items()))


def by_stem(paths: Iterable[Path], root: Path | None = None) -> dict[str, Path]:
    """Files by their names without suffix, or by their places below `root` without suffix, in order.

    Raises:
        BadSampleError: two files differ in their suffix alone; both are named.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = path.stem if root is None else path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise BadSampleError(Cause.ANNOTATION, f"{found[name]} and {path.name} have one name; rename one of them.")
        found[name] = path
    return dict(sorted(found.items()))


def lines_of(path: Path) -> list[str]:
    """Lines of a list that are not empty, whatever its ends of lines, with or without a byte-order mark.

    Raises:
        ValueError: there is no such file, or it is not text.
    """
    if not path.is_file():
        raise ValueError(f"There is no list at {path}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list in UTF-8 ({error}); save it as plain text, one name a line.") from error
    return [line.strip() for line in lines if line.strip()]


def listed(present: Iterable[str], lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Which names a list asks for: (those that are there, in the list's order; lines that name nothing that is there).

    A line is a name, or the path of a file or folder of that name; DAVIS 2016 lists pairs of frame and mask.
    """
    by_name: dict[str, str] = {}
    for name in present:
        by_name.setdefault(name.rsplit("/", 1)[-1], name)
        by_name[name] = name
    found: dict[str, None] = {}
    missing: list[str] = []
    for line in lines:
        name = next((by_name[word] for word in _readings(line) if word in by_name), None)
        if name is None:
            missing.append(line)
        else:
            found[name] = None
    return list(found), missing


def _readings(line: str) -> Iterator[str]:
    """What a line of a list may mean, the likeliest first."""
    for words in (line, line.split()[0]):
        path = words.strip("/")
        for name in (path, path.rsplit("/", 1)[-1]):
            yield name
            yield os.path.splitext(name)[0]
        yield path.rpartition("/")[0].rsplit("/", 1)[-1]


def some_of(names: Collection[str]) -> str:
    """The first few, in words."""
    return ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def list_in(root: Path, name: str) -> Path:
    """The file of a list that is named by a path, or as its data set calls it (train: ImageSets/2017/train.txt).

    Raises:
        ValueError: there is none.
    """
    places = [root / name, Path(name).expanduser(), *sorted(root.glob(f"ImageSets/*/{name}.txt")), root / f"{name}.txt"]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        known = [found.stem for found in (*root.glob("ImageSets/*/*.txt"), *root.glob("*.txt"))]
        raise ValueError(
            f"split={name} names no list: no such file, no ImageSets/*/{name}.txt and no {name}.txt in {root}."
            f"{did_you_mean(name, known)}"
        )
    return path


def first_folder(root: Path, names: Iterable[str]) -> Path | None:
    """The first of these folders that is there."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def aligned(frames: Mapping[int, Path], masks: Sequence[Path]) -> tuple[dict[int, Path], list[Path]]:
    """Masks by the place t of their frame, and masks that have no frame. Names decide; where they differ, numbers do.

    Raises:
        BadSampleError: two masks have one number.
    """
    place = {path.stem: t for t, path in enumerate(frames.values())}
    named = by_stem(masks)
    if not named.keys() <= place.keys():
        by_number = {number: t for t, number in enumerate(frames)}
        place = {path.stem: by_number[number] for number, path in numbered(masks).items() if number in by_number}
    found = {place[stem]: path for stem, path in named.items() if stem in place}
    return dict(sorted(found.items())), [path for stem, path in named.items() if stem not in place]
