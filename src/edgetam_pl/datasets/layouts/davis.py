"""DAVIS 2016 and 2017, and any folder laid out like them."""

from __future__ import annotations

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.folders import VideoFolders, resolution_in
from edgetam_pl.datasets.layout import folder_in, root_of


def open_layout(config: ShardsConfig) -> VideoFolders:
    """JPEGImages/480p/SEQ, Annotations/480p/SEQ, ImageSets/2017/train.txt; the resolution may be left out."""
    root = root_of(config)
    images, annotations = (resolution_in(folder_in(root, name, config)) for name in ("JPEGImages", "Annotations"))
    return VideoFolders(images, annotations, root, config.split)
