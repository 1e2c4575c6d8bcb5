"""The data sets exactly as they are distributed, and a user's own folders, as streams of frames with masks.

A reader lists its videos (or images) and yields the annotated frames of each. Layouts: training facts 9. What is wrong
with one frame or one video is raised as a BadSampleError that the builder counts; what is wrong with the folder as a
whole is a ValueError that says what was expected.
"""

from __future__ import annotations

from collections.abc import Callable

from edgetam_pl.config import ShardsConfig
from edgetam_pl.data.readers.base import Frame, Mask, Reader, read_labels
from edgetam_pl.data.readers.custom import images, videos
from edgetam_pl.data.readers.generated import toy
from edgetam_pl.data.readers.palette import davis, mose, ytvos
from edgetam_pl.data.readers.pasted import pasted
from edgetam_pl.data.readers.sa_1b import sa1b
from edgetam_pl.data.readers.sa_v import SAV, sav

__all__ = ["READERS", "SAV", "Frame", "Mask", "Reader", "open_reader", "read_labels"]

READERS: dict[str, Callable[[ShardsConfig], Reader]] = {
    "davis": davis,
    "mose": mose,
    "ytvos": ytvos,
    "sav": sav,
    "sa1b": sa1b,
    "images": images,
    "videos": videos,
    "pasted": pasted,
    "toy": toy,
}


def open_reader(config: ShardsConfig) -> Reader:
    """The reader of a data set.

    Raises:
        ValueError: an unknown source, or a folder that is not what the source expects.
    """
    if config.source not in READERS:
        raise ValueError(f"source={config.source} is unknown; use one of {', '.join(READERS)}.")
    return READERS[config.source](config)
