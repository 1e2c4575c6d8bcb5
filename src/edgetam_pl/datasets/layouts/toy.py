"""Generated clips as a data set; of one frame they are images."""

from __future__ import annotations

from dataclasses import dataclass

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.frames import ArrayFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout
from edgetam_pl.datasets.masks import ArrayMasks
from edgetam_pl.datasets.toy_clips import toy_clip


@dataclass(frozen=True)
class Toy(Layout):
    """Clips of `toy_clips.py`, whose seeds count up from the first."""

    first: int
    clips: int
    num_frames: int
    size: int
    objects: int
    kind: str = "video"

    def present(self) -> list[str]:
        return [f"toy-{number:06d}" for number in range(self.clips)]

    def clip(self, name: str) -> AnnotatedClip:
        seed = self.first + int(name.removeprefix("toy-"))
        frames, masks = toy_clip(seed, self.num_frames, self.size, self.objects)
        return AnnotatedClip(name, ArrayFrames(frames), ArrayMasks(masks))


def open_layout(config: ShardsConfig) -> Toy:
    """Generated clips; those of images and of videos have different seeds."""
    if not 0 < config.clips <= 50_000 or config.seed < 0 or config.seed > 9:
        raise ValueError(f"clips={config.clips} seed={config.seed}: toy makes 1 to 50000 clips, with a seed of 0 to 9.")
    kind = "image" if config.frames == 1 else "video"
    first = config.seed * 100_000 + (50_000 if kind == "image" else 0)
    return Toy(first, config.clips, config.frames, config.size, config.objects, kind)
