"""COCO's instances: one json for all images, with polygons or run lengths; as COCO, Roboflow, CVAT and others write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import annotated_image, picture_of, read_json, wanted
from edgetam_pl.datasets.frames import FileFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, root_of
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import files_in, folders_in, some_of
from edgetam_pl.io.pictures import picture_size


@dataclass
class _Picture:
    """What the json says of an image."""

    file: str
    size: tuple[int, int] | None
    """(H, W) in pixels, where it is given."""
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Instances:
    """What a json of COCO holds."""

    pictures: dict[str, _Picture]
    categories: dict[Any, str]
    strangers: dict[str, str]
    """Images that annotations belong to and the json does not list, and what is said of them."""


@dataclass(frozen=True)
class Coco(Layout):
    """The images of one json. A crowd (iscrowd) is no object: it is left out and counted as a void region."""

    file: Path
    root: Path
    split: str = ""
    categories: str = ""
    max_area: float = 1.0
    kind: str = "image"

    @property
    def _all(self) -> _Instances:
        return _instances(self.file, self.file.stat().st_mtime_ns)

    @cached_property
    def _wanted(self) -> frozenset[str] | None:
        return wanted(self.categories, self._all.categories.values())

    @cached_property
    def _folders(self) -> tuple[Path, ...]:
        """Where pictures may lie: beside the json, in the root, in images/, and in a folder called as the part is."""
        part = self.file.stem.split("_", 1)[-1]
        below = [base / name for base in (self.root, self.root / "images") for name in ("", part)]
        return tuple(dict.fromkeys(folder for folder in (self.file.parent, *below) if folder.is_dir()))

    def present(self) -> list[str]:
        _ = self._wanted  # an unknown category is refused before anything is built
        return sorted(self._all.pictures)

    def expected(self) -> str:
        return f"image in {self.file}; COCO's json has images, annotations and categories"

    def incomplete(self) -> dict[str, str]:
        gone = {name: self._missing(name) for name, one in self._all.pictures.items() if not self._found(one)}
        return gone | self._all.strangers

    def unused(self) -> list[str]:
        return list(self._all.strangers.values())  # a missing picture is counted when its shard is built

    def clip(self, name: str) -> AnnotatedClip:
        one = self._all.pictures[name]
        if (path := self._found(one)) is None:
            raise BadSampleError(Cause.IMAGE, self._missing(name))
        objects, faults = [], []
        for number, entry in enumerate(one.annotations):
            where = f"{self.file}: annotation {entry.get('id', number)} of {one.file}"
            if self._wanted is not None and self._all.categories.get(entry.get("category_id")) not in self._wanted:
                continue
            if entry.get("iscrowd"):
                faults.append(BadSampleError(Cause.VOID, f"{where} is a crowd, not an object"))
            elif not entry.get("segmentation"):
                faults.append(BadSampleError(Cause.NO_MASK, f"{where} has no mask (segmentation)"))
            else:
                objects.append((str(entry.get("id", number)), [entry["segmentation"]]))
        size, where = one.size or picture_size(path), f"{self.file}, {one.file}"
        return annotated_image(name, FileFrames({0: path}), size, objects, where, self.max_area, faults)

    def _found(self, one: _Picture) -> Path | None:
        return picture_of(one.file, self._folders)

    def _missing(self, name: str) -> str:
        places = ", ".join(map(str, self._folders))
        return f"{self._all.pictures[name].file} of {self.file} is in none of {places}"


@lru_cache(maxsize=1)  # half a gigabyte for COCO's training images, opened for every shard
def _instances(path: Path, changed: int) -> _Instances:
    """The json in `path`; `changed` is when it was written.

    Raises:
        ValueError: it is not COCO's, or two images have one name.
    """
    raw = read_json(path)
    try:
        pictures: dict[str, _Picture] = {}
        by_id: dict[Any, _Picture] = {}
        for entry in raw["images"]:
            file = str(entry["file_name"]).replace("\\", "/")
            name = str(PurePosixPath(file.lstrip("/")).with_suffix(""))
            if name in pictures:
                raise BadSampleError(
                    Cause.ANNOTATION, f"{path}: {pictures[name].file} and {file} have one name; rename one of them."
                )
            sized = entry.get("height") and entry.get("width")
            size = (int(entry["height"]), int(entry["width"])) if sized else None
            by_id[entry["id"]] = pictures[name] = _Picture(file, size)
        strangers: dict[str, str] = {}
        for entry in raw["annotations"]:
            if (one := by_id.get(entry["image_id"])) is not None:
                one.annotations.append(entry)
                continue
            number = f"image {entry['image_id']}"
            strangers[number] = f"{number} is annotated in {path} and not among its images"
        categories = {entry["id"]: str(entry["name"]) for entry in raw.get("categories", ())}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise ValueError(
            f"{path} is not a COCO json ({error!r:.80}); it has images, annotations and, for names, categories."
        ) from error
    return _Instances(pictures, categories, strangers)


def open_layout(config: ShardsConfig) -> Coco:
    """annotations/instances_train.json and train/, or a json beside its images or beside images/. `split` chooses one of
    several (train), or is a list of images."""
    root = root_of(config)
    near = [root, root / "annotations", *(root / name for name in folders_in(root))]
    files = [path for folder in dict.fromkeys(near) for path in files_in(folder, (".json",))]
    found = [path for path in files if path.name.startswith("instances")] or files
    split = config.split
    if split and (named := [path for path in found if split in (*path.relative_to(root).parts, *path.stem.split("_"))]):
        found, split = named, ""
    if len(found) != 1:
        names = some_of([str(path.relative_to(root)) for path in found]) or "none"
        raise ValueError(
            f"{root} should hold one json of COCO's instances, there or in a folder of it; found: {names}. With several, "
            f"split=NAME chooses, as split=train for annotations/instances_train.json."
        )
    return Coco(found[0], root, split, config.categories, config.max_area)
