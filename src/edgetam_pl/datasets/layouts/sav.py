"""SA-V: the training set as mp4 with run-length masklets, validation and test as folders of JPEG and PNG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import read_json
from edgetam_pl.datasets.folders import VideoFolders
from edgetam_pl.datasets.frames import VideoFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, folder_in, root_of
from edgetam_pl.datasets.masks import RleMasks
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import by_stem, file_called, files_below
from edgetam_pl.io.video import VIDEO_FILES


@dataclass(frozen=True)
class SAV(Layout):
    """SA-V: sav_000001.mp4 (24 FPS) with sav_000001_manual.json or _auto.json, whose entry i is video frame 4 i. Videos
    of other kinds are read too."""

    root: Path
    split: str = ""
    annotations: str = "manual"
    """manual | auto | both"""
    every: int = 4

    def present(self) -> list[str]:
        return list(by_stem((path for path in self._files if path.suffix.lower() in VIDEO_FILES), self.root))

    def incomplete(self) -> dict[str, str]:
        ends = [f"_{kind}.json" for kind in ("manual", "auto")]
        stems = {
            str(path.relative_to(self.root)).removesuffix(end)
            for path in self._files
            for end in ends
            if str(path).endswith(end)
        }
        return {name: f"{name} has annotations and no video" for name in sorted(stems - {*self.present()})}

    @cached_property
    def _files(self) -> list[Path]:
        return [self.root / folder / name for folder, names in files_below(self.root) for name in names]

    def expected(self) -> str:
        return f"video in {self.root}; SA-V's training set is sav_000001.mp4 with sav_000001_manual.json etc."

    def clip(self, name: str) -> AnnotatedClip:
        masklets = self._masklets(name)
        entries: dict[int, dict[str, Any]] = {}
        faults = []
        for index in range(len(next(iter(masklets.values())))):
            t = index * self.every
            masks: dict[str, Any] = {}
            for kind, masklet in masklets.items():
                entry = masklet[index] if index < len(masklet) else None
                if entry is None or any(mask is None for mask in entry):  # the release drops such frames
                    faults.append(BadSampleError(Cause.NO_MASK, f"{name}: frame {t} has no {kind} annotation"))
                    break
                prefix = f"{kind}-" if self.annotations == "both" else ""
                masks |= {f"{prefix}{number}": mask for number, mask in enumerate(entry)}
            else:
                entries[t] = masks
        film = file_called(self.root / name, VIDEO_FILES)
        if film is None:
            raise BadSampleError(Cause.VIDEO, f"{self.root / name} has annotations and no video")
        return AnnotatedClip(name, VideoFrames(film), RleMasks(entries, name), tuple(faults))

    def _masklets(self, name: str) -> dict[str, list[Any]]:
        """kind -> entry of each annotated frame -> RLE of each object.

        Raises:
            BadSampleError: no annotation of the wanted kind, or not SA-V's.
        """
        found = {}
        for kind in ("manual", "auto") if self.annotations == "both" else (self.annotations,):
            path = self.root / f"{name}_{kind}.json"
            if not path.is_file():
                if self.annotations == "both":
                    continue
                raise BadSampleError(Cause.NO_MASK, f"{path} does not exist")
            try:
                found[kind] = read_json(path)["masklet"]
            except (KeyError, TypeError) as error:
                raise BadSampleError(Cause.ANNOTATION, f"{path} is not an SA-V annotation ({error!r:.80})") from error
            if not isinstance(found[kind], list) or not found[kind]:
                raise BadSampleError(Cause.ANNOTATION, f"{path} holds no masklet")
        if not found:
            raise BadSampleError(Cause.NO_MASK, f"{name} has neither a manual nor an auto annotation")
        return found


def open_layout(config: ShardsConfig) -> SAV | VideoFolders:
    """SA-V: train as mp4 and json in any depth of folders; val and test as JPEGImages_24fps and Annotations_6fps, with a
    folder for each object."""
    root = root_of(config)
    if config.annotations not in {"manual", "auto", "both"}:
        raise ValueError(f"annotations={config.annotations} is not one of SA-V's; use manual, auto or both.")
    if (root / "JPEGImages_24fps").is_dir():
        images, annotations = root / "JPEGImages_24fps", folder_in(root, "Annotations_6fps", config)
        return VideoFolders(images, annotations, root, config.split, per_object=True)
    return SAV(root, config.split, config.annotations, config.every)
