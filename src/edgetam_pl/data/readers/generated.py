"""Generated clips as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError
from edgetam_pl.data.readers.base import Frame
from edgetam_pl.data.toy import toy_clip


@dataclass(frozen=True)
class Toy:
    """Generated clips (`toy.py`); of one frame they are images."""

    clips: int
    num_frames: int
    size: int
    objects: int
    seed: int

    @property
    def kind(self) -> str:
        return "image" if self.num_frames == 1 else "video"

    def items(self) -> list[str]:
        return [f"toy-{number:06d}" for number in range(self.clips)]

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        first = self.seed * 100_000 + (50_000 if self.kind == "image" else 0)
        frames, masks = toy_clip(first + int(item.removeprefix("toy-")), self.num_frames, self.size, self.objects)
        for t, pixels in enumerate(frames):
            yield Frame(t, pixels, {str(o + 1): mask for o, mask in enumerate(masks[t]) if mask.any()})


def toy(config: ShardsConfig) -> Toy:
    """Generated clips."""
    if not 0 < config.clips <= 50_000 or config.seed < 0 or config.seed > 9:
        raise ValueError(f"clips={config.clips} seed={config.seed}: toy makes 1 to 50000 clips, with a seed of 0 to 9.")
    return Toy(config.clips, config.frames, config.size, config.objects, config.seed)
