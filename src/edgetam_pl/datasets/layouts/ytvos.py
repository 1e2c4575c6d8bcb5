"""YouTube-VOS 2018 and 2019."""

from __future__ import annotations

from dataclasses import replace

from edgetam_pl.config import ShardsConfig
from edgetam_pl.datasets.annotations import read_json
from edgetam_pl.datasets.folders import VideoFolders
from edgetam_pl.datasets.layouts import mose


def open_layout(config: ShardsConfig) -> VideoFolders:
    """train/JPEGImages/VIDEO, train/Annotations/VIDEO, train/meta.json."""
    folders = mose.open_layout(config)
    meta = folders.root / "meta.json"
    if not meta.is_file():
        raise ValueError(
            f"{folders.root} has no meta.json; YouTube-VOS is distributed with one. For folders without: source=davis."
        )
    try:
        videos = read_json(meta)["videos"]
        known = {name: frozenset(entry["objects"]) for name, entry in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{meta} is not YouTube-VOS's meta.json ({error!r}); download it again.") from error
    return replace(folders, known=known)
