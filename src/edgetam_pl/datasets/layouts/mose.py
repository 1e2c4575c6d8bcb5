"""MOSE. Of version 1 only training masks are public."""

from __future__ import annotations

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.folders import VideoFolders, part_of
from edgetam_pl.datasets.layout import folder_in, root_of


def open_layout(config: ShardsConfig) -> VideoFolders:
    """train/JPEGImages/VIDEO, train/Annotations/VIDEO."""
    root, listed = part_of(root_of(config), config)
    return VideoFolders(folder_in(root, "JPEGImages", config), folder_in(root, "Annotations", config), root, listed)
