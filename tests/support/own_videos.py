"""A folder as people have one: video files of generated clips, and label maps of some of their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from shard_sets import save_labels

from edgetam_pl.datasets.toy_clips import toy_clip
from edgetam_pl.io.video import VideoWriter


def make_own_videos(root: Path, *, videos: int = 5, frames: int = 8, size: int = 64, every: int = 1) -> Path:
    """videos/clipN.mp4 and masks/clipN/0000T.png, a mask on every so many-th frame. Later clips are longer by one frame."""
    (root / "videos").mkdir(parents=True)
    for number in range(videos):
        pixels, masks = toy_clip(number, frames + number, size, 2)
        with VideoWriter(root / "videos" / f"clip{number}.mp4", size=(size, size)) as writer:
            for frame in pixels:
                writer.write(frame)
        for t in range(0, len(masks), every):
            labels = np.zeros((size, size), np.uint8)
            for o, mask in enumerate(masks[t], start=1):
                labels[mask] = o
            save_labels(root / "masks" / f"clip{number}" / f"{t:05d}.png", labels)
    return root
