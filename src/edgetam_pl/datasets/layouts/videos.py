"""Videos of one's own with masks: videos/NAME.mp4 and masks/NAME/00000.png, a label map named by its frame's number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.frames import VideoFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout, folder_in, root_of
from edgetam_pl.datasets.masks import LabelMaps, label_files
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.folders import by_stem, files_in, folders_in, numbered, some_of, strangers_in
from edgetam_pl.io.video import VIDEO_FILES


@dataclass(frozen=True)
class Videos(Layout):
    """Video files in one folder, a folder of label maps for each in another. Frames are numbered from 0."""

    videos: Path
    masks: Path
    root: Path
    split: str = ""

    @cached_property
    def _films(self) -> dict[str, Path]:
        return by_stem(files_in(self.videos, VIDEO_FILES))

    def present(self) -> list[str]:
        return folders_in(self.masks) if self._films else []

    def expected(self) -> str:
        return (
            f"video in {self.videos} ({len(self._films)} there) with a folder of masks, masks/NAME/00000.png for "
            f"videos/NAME.mp4"
        )

    def incomplete(self) -> dict[str, str]:
        gone = f"has masks and no video in {self.videos} (known kinds: {', '.join(VIDEO_FILES)})"
        masked = folders_in(self.masks)
        bare = {
            name: f"{path.name} has no folder {self.masks / name}"
            for name, path in self._films.items()
            if name not in masked
        }
        return bare | {name: f"{name} {gone}" for name in masked if name not in self._films}

    def unused(self) -> list[str]:
        return super().unused() + strangers_in(self.videos, VIDEO_FILES, "video")

    def clip(self, name: str) -> AnnotatedClip:
        if name not in self._films:
            raise BadSampleError(Cause.VIDEO, self.incomplete().get(name, f"{name} is not there"))
        frames = VideoFrames(self._films[name])
        files = label_files(self.masks / name)
        paths = numbered(files)
        if len(files) > 1 and not any(letter.isdecimal() for path in files for letter in path.stem):
            raise BadSampleError(
                Cause.ANNOTATION,
                f"{self.masks / name} has masks without numbers ({some_of([path.name for path in files])}): of which "
                f"frames? They are called by the number of their frame, 00000.png for the first",
            )
        if [*paths] == [*range(1, len(paths) + 1)] and frames.count == len(paths):
            raise BadSampleError(
                Cause.ANNOTATION,
                f"{self.masks / name} has masks 1 to {len(paths)} for the {len(paths)} frames of {frames.path.name}; number "
                f"them from 0, as frames are (00000.png for the first)",
            )
        return AnnotatedClip(name, frames, LabelMaps(paths))


def open_layout(config: ShardsConfig) -> Videos:
    """videos/NAME.mp4 and masks/NAME/00000.png."""
    root = root_of(config)
    return Videos(folder_in(root, "videos", config), folder_in(root, "masks", config), root, config.split)
