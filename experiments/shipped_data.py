"""The real pictures that come with the package, made from PUMaVOS and COCO: `python experiments/shipped_data.py DATA`.

DATA holds pumavos_chair/ (DAVIS's layout) and coco_dev/ (images/, masks/, instances.json with the licence of each picture).
Only pictures under CC BY 2.0 are taken. Writes src/edgetam_pl/shipped/{example,pictures}, each with its ATTRIBUTION.md.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np

from edgetam_pl.io.label_png import read_labels, write_labels
from edgetam_pl.io.pictures import read_picture

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "edgetam_pl" / "shipped"

CROP = (slice(0, 200), slice(150, 450))
"""Rows and columns that are kept of 480 x 720, at their own resolution: the object is not small there."""
CLIP_QUALITY, PICTURE_QUALITY, SHORT_SIDE = 82, 82, 240
CC_BY = 4
"""The number of CC BY 2.0 in COCO's table of licences; checked below."""
SMALLEST = 0.01
"""Share of a picture that an object covers at least; smaller ones become background."""

EXAMPLE_TEXT = """\
# The example clip

60 frames of the sequence `chair` of PUMaVOS, the data set of "XMem++: Production-level Video Segmentation From Few Annotated
Frames" (Bekuzarov, Bermudez, Lee, Li; ICCV 2023), https://github.com/max810/XMem2, licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), which comes without warranties.

Changed: cropped to 300 x 200 pixels around the farther chair (object 1), of frames of 720 x 480, and encoded again; masks
cropped likewise. No model of this project is trained on this clip, but for the student of `make demo`, which
sees its first half.
"""

PICTURES_TEXT = """\
# Pictures of `make demo`

{count} pictures of COCO 2017 (https://cocodataset.org) whose photographers chose CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/), which comes without warranties. Masks are made from COCO's annotations
(CC BY 4.0, https://creativecommons.org/licenses/by/4.0/, COCO Consortium).

Changed: shrunk to a shorter side of {side} pixels and encoded again; objects that cover less than {smallest:.0%} are left
out. A picture's page at Flickr names its author and title.

| file | page | picture as COCO took it |
|---|---|---|
"""


def main(data: Path) -> None:
    """Write both sets anew."""
    example(data / "pumavos_chair", SHIPPED / "example")
    pictures(data / "coco_dev", SHIPPED / "pictures")


def example(source: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for path in sorted((source / "JPEGImages" / "chair").glob("*.jpg")):
        image = read_picture(path)[CROP]
        labels = read_labels((source / "Annotations" / "chair" / path.name).with_suffix(".png"))[CROP]
        _write(out / "JPEGImages" / "chair" / path.name, image, CLIP_QUALITY)
        write_labels(out / "Annotations" / "chair" / f"{path.stem}.png", np.ascontiguousarray(labels))
    (out / "ATTRIBUTION.md").write_text(EXAMPLE_TEXT)


def pictures(source: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    content = json.loads((source / "instances.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["licenses"]}
    assert names[CC_BY] == "CC BY 2.0", f"licence {CC_BY} is {names[CC_BY]}"
    rows = []
    for entry in sorted(content["images"], key=lambda entry: entry["id"]):
        if entry["license"] != CC_BY:
            continue
        name = Path(entry["file_name"]).stem
        image, labels = read_picture(source / "images" / entry["file_name"]), read_labels(source / "masks" / f"{name}.png")
        kept = [label for label in np.unique(labels) if label and (labels == label).mean() >= SMALLEST]
        if not kept:
            continue
        numbers = np.zeros(256, np.uint8)
        numbers[kept] = np.arange(1, len(kept) + 1)
        scale = SHORT_SIDE / min(labels.shape)
        size = (round(labels.shape[1] * scale), round(labels.shape[0] * scale))
        _write(out / "images" / f"{name}.jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), PICTURE_QUALITY)
        write_labels(out / "masks" / f"{name}.png", cv2.resize(numbers[labels], size, interpolation=cv2.INTER_NEAREST))
        photo = re.search(r"/(\d+)_", entry["flickr_url"])
        assert photo is not None, entry["flickr_url"]
        rows.append(f"| {name} | https://www.flickr.com/photo.gne?id={photo[1]} | {entry['flickr_url']} |\n")
    text = PICTURES_TEXT.format(count=len(rows), side=SHORT_SIDE, smallest=SMALLEST)
    (out / "ATTRIBUTION.md").write_text(text + "".join(rows))


def _write(path: Path, image: np.ndarray, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
