"""Clips pasted together from image sets with masks, as a data set: how people who have only images get a tracker."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.frames import ArrayFrames
from edgetam_pl.datasets.layout import AnnotatedClip, Layout
from edgetam_pl.datasets.layouts import images
from edgetam_pl.datasets.masks import ArrayMasks, dense
from edgetam_pl.datasets.pasted_clips import SHARE, Cutout, Pixels, pasted_clip
from edgetam_pl.io.errors import BadSampleError

_DRAWS = 100
"""Pictures that are tried for one object."""
MOST_GROWTH = 8
"""An object that covers a tenth of the frame covers a six-hundredth of it when it is eight times smaller: hardly a pixel."""


@dataclass(frozen=True)
class Pasted(Layout):
    """`clips` clips made of pictures of `sets`; each set is drawn from as often as it has pictures."""

    sets: tuple[images.Images, ...]
    pictures: tuple[tuple[int, str], ...]  # (number of the set, name)
    clips: int
    num_frames: int
    size: int
    objects: int
    twins: float
    growth: float
    seed: int
    kind: str = "video"

    def present(self) -> list[str]:
        return [f"pasted-{number:06d}" for number in range(self.clips)]

    def expected(self) -> str:
        return "clip to be pasted"

    def clip(self, name: str) -> AnnotatedClip:
        rng = np.random.default_rng([self.seed, int(name.removeprefix("pasted-"))])
        cutouts: list[Cutout] = []
        for number in range(int(rng.integers(1, self.objects + 1))):
            cutouts.append(cutouts[-1] if number and rng.random() < self.twins else self.cutout(rng))
        background, _ = self.picture(rng)
        frames, masks = pasted_clip(rng, background, cutouts, self.num_frames, self.size, self.growth)
        return AnnotatedClip(name, ArrayFrames(frames), ArrayMasks(masks))

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
        fault: BadSampleError | None = None
        for _ in range(_DRAWS):
            number, name = self.pictures[int(rng.integers(len(self.pictures)))]
            try:
                clip = self.sets[number].clip(name)
                return clip.frames.read(0), [dense(mask) for mask in clip.masks.read(0).values()]
            except BadSampleError as error:
                fault = error
        assert fault is not None
        raise fault


def open_layout(config: ShardsConfig) -> Pasted:
    """Image sets with masks as clips: root=A or root=A:B:C, each laid out as for source=images."""
    if config.clips < 1 or config.frames < 1 or config.objects < 1 or config.size < 32:
        raise ValueError(
            f"clips={config.clips} frames={config.frames} objects={config.objects} size={config.size}: source=pasted makes "
            "at least 1 clip of 1 frame with up to 1 object, 32 pixels on its shorter side."
        )
    if not 0 <= config.twins <= 1:
        raise ValueError(f"twins={config.twins}: expected a probability, 0 to 1.")
    if not 1 <= config.growth <= MOST_GROWTH:
        raise ValueError(f"growth={config.growth}: expected a factor, 1 (objects keep their size) to {MOST_GROWTH}.")
    if not config.root:
        raise ValueError("source=pasted needs root=FOLDER, or root=A:B, each with images/ and masks/ as for source=images.")
    sets = tuple(images.open_layout(dataclasses.replace(config, root=root)) for root in config.root.split(":"))
    pictures = tuple((number, name) for number, one in enumerate(sets) for name in one.names())
    found = Pasted(
        sets, pictures, config.clips, config.frames, config.size, config.objects, config.twins, config.growth, config.seed
    )
    found.cutout(np.random.default_rng(config.seed))  # refuse a set without such objects now, not in a worker
    return found
