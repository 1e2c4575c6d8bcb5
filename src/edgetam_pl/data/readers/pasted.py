"""Clips pasted together from image sets, as a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError
from edgetam_pl.data.pasted import SHARE, Cutout, Pixels, pasted_clip
from edgetam_pl.data.readers.base import Frame
from edgetam_pl.data.readers.custom import ImageFolder, images

_DRAWS = 100
"""Pictures that are tried for one object."""
_TWIN = 0.15
"""Probability that an object is the one before it once more: looks alone do not tell them apart."""


@dataclass(frozen=True)
class Pasted:
    """`clips` clips made of pictures of `sets`; each set is drawn from as often as it has pictures."""

    sets: tuple[ImageFolder, ...]
    pictures: tuple[tuple[int, str], ...]  # (number of the set, name)
    clips: int
    num_frames: int
    size: int
    objects: int
    seed: int
    kind: str = "video"

    def items(self) -> list[str]:
        return [f"pasted-{number:06d}" for number in range(self.clips)]

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        rng = np.random.default_rng([self.seed, int(item.removeprefix("pasted-"))])
        cutouts: list[Cutout] = []
        for number in range(int(rng.integers(1, self.objects + 1))):
            cutouts.append(cutouts[-1] if number and rng.random() < _TWIN else self.cutout(rng))
        background, _ = self.picture(rng)
        frames, masks = pasted_clip(rng, background, cutouts, self.num_frames, self.size)
        for t, pixels in enumerate(frames):
            yield Frame(t, pixels, {str(o + 1): mask for o, mask in enumerate(masks[t]) if mask.any()})

    def cutout(self, rng: np.random.Generator) -> Cutout:
        """A random object of a size worth cutting out.

        Raises:
            ValueError: none was found in many pictures.
        """
        for _ in range(_DRAWS):
            image, masks = self.picture(rng)
            fitting = [mask for mask in masks if SHARE[0] <= mask.mean() <= SHARE[1] and mask.shape == image.shape[:2]]
            if fitting:
                return Cutout.of(image, fitting[int(rng.integers(len(fitting)))])
        raise ValueError(
            f"Of {_DRAWS} pictures drawn from {', '.join(str(one.images) for one in self.sets)} none shows an object that "
            f"covers {SHARE[0]:.1%} to {SHARE[1]:.0%} of it, which source=pasted cuts out. Give pictures with larger "
            "objects, cropped around them for instance, or more image sets in root=A:B."
        )

    def picture(self, rng: np.random.Generator) -> tuple[Pixels, list[NDArray[np.bool_]]]:
        """A random picture (H, W, 3) and its masks (H, W).

        Raises:
            BadSampleError: many pictures in a row cannot be used; that of the last one.
        """
        for _ in range(_DRAWS):
            number, name = self.pictures[int(rng.integers(len(self.pictures)))]
            frame = next(self.sets[number].frames(name))
            if isinstance(frame, Frame) and isinstance(frame.image, Path):
                with Image.open(frame.image) as image:
                    pixels = np.asarray(image.convert("RGB"))
                return pixels, [mask for mask in frame.masks.values() if not isinstance(mask, str)]
        assert isinstance(frame, BadSampleError)
        raise frame


def pasted(config: ShardsConfig) -> Pasted:
    """Image sets with masks as clips: root=A or root=A:B:C, each laid out as for source=images."""
    if config.clips < 1 or config.frames < 1 or config.objects < 1 or config.size < 32:
        raise ValueError(
            f"clips={config.clips} frames={config.frames} objects={config.objects} size={config.size}: source=pasted makes "
            "at least 1 clip of 1 frame with up to 1 object, 32 pixels on its shorter side."
        )
    if not config.root:
        raise ValueError(
            "source=pasted needs root=FOLDER, or root=A:B, each with images/ and masks/ as for source=images."
        )
    sets = tuple(images(dataclasses.replace(config, root=root)) for root in config.root.split(":"))
    pictures = tuple((number, name) for number, one in enumerate(sets) for name in one.items())
    found = Pasted(sets, pictures, config.clips, config.frames, config.size, config.objects, config.seed)
    found.cutout(np.random.default_rng(config.seed))  # refuse a set without such objects now, not in a worker
    return found
