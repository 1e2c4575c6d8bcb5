"""SA-1B: images with one json each, a run-length mask an annotation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.errors import BadSampleError, Cause
from edgetam_pl.data.readers.base import Frame, Listing, Mask, checked
from edgetam_pl.data.readers.files import below, root_of
from edgetam_pl.io import rle


@dataclass(frozen=True)
class SA1B:
    """SA-1B: sa_000001.jpg with sa_000001.json, one annotation a mask."""

    root: Path
    max_area: float
    listing: Listing
    kind: str = "image"

    def items(self) -> list[str]:
        apart = {path.stem for path in (self.root / "images").glob("*.jpg")}
        what = f"image in {self.root} with its annotation; SA-1B is pairs of sa_1.jpg and sa_1.json"
        return self.listing.of(below(self.root, ".json", beside=".jpg", apart=apart), what=what)

    def frames(self, item: str) -> Iterator[Frame | BadSampleError]:
        path = self.root / f"{item}.json"
        image = path.with_suffix(".jpg")
        if not image.is_file():  # COCO-like: annotations and images in folders of their own
            image = self.root / "images" / image.name
        if not image.is_file():
            yield BadSampleError(Cause.IMAGE, f"{path} has no image: neither {path.stem}.jpg beside it nor in images/")
            return
        try:
            raw = json.loads(path.read_text())
            size = (int(raw["image"]["height"]), int(raw["image"]["width"]))
            annotations = {str(entry["id"]): entry["segmentation"] for entry in raw["annotations"]}
        except (ValueError, KeyError, TypeError, OSError) as error:
            yield BadSampleError(Cause.ANNOTATION, f"{path} is not an SA-1B annotation ({error!r:.80})")
            return
        masks: dict[str, Mask] = {}
        for name, entry in annotations.items():
            try:
                found = checked({name: entry}, f"{path}, annotation {name}", size=size)
            except BadSampleError as error:
                yield error
                continue
            masks |= {key: mask for key, mask in found.items() if self._fits(mask, size)}
        if masks:
            yield Frame(0, image, masks, size)
        else:
            yield BadSampleError(Cause.NO_OBJECT, f"{path} has no mask between 0 and {self.max_area:.0%} of the image")

    def _fits(self, mask: Mask, size: tuple[int, int]) -> bool:
        assert isinstance(mask, str)
        return 0 < rle.area(rle.parse(mask, size)) < self.max_area * size[0] * size[1]


def sa1b(config: ShardsConfig) -> SA1B:
    """SA-1B's folders, in any depth; also images/ beside a folder of such json files."""
    root = root_of(config)
    return SA1B(root, config.max_area, Listing.of_config(config, root))
