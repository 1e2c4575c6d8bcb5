"""The picture of docs/shards.md: clips pasted together from the CC BY pictures that the package ships, one clip a row.

python experiments/pasted_samples.py docs/pasted.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

import edgetam_pl
from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.layout import open_layout
from edgetam_pl.io.overlay import paint

ROWS, COLUMNS, STEP, SHAPE = 3, 5, 4, (150, 200)
"""Clips, frames of a clip, frames from one to the next, (H, W) of a frame in the picture."""


def main(out: str) -> None:
    pictures = Path(edgetam_pl.__file__).parent / "shipped" / "pictures"
    wanted = ShardsConfig(
        source="pasted", root=str(pictures), clips=ROWS, frames=COLUMNS * STEP, objects=4, size=192, twins=0.3
    )
    clips = open_layout(wanted)
    rows = []
    for name in clips.names():
        clip = clips.clip(name)
        frames = [np.asarray(frame.image) for frame in clip.annotated_frames()]
        masks = [clip.masks.read(t) for t in range(len(frames))]
        objects = sorted(set().union(*masks))
        row = []
        for t in range(0, len(frames), STEP):
            shown = [np.asarray(masks[t][one], bool) for one in objects if one in masks[t]]
            row.append(cv2.resize(paint(frames[t], shown, opacity=0.3), SHAPE[::-1], interpolation=cv2.INTER_AREA))
        rows.append(np.hstack(row))
    cv2.imwrite(out, np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main(*sys.argv[1:])
