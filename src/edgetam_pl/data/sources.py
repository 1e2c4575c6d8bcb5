"""A source of the mixture as one phase reads it: which of its videos are long enough, and in which order they are drawn."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetam_pl.config import DataSource
from edgetam_pl.data.sampling import Order, SpreadOrder
from edgetam_pl.data.shards import ShardSet
from edgetam_pl.data.steps import Source

_LOG = logging.getLogger(__name__)

LANES = 512
"""Of a source of many shards: as many as ranks of the largest run, a power of two as their numbers mostly are."""


def open_source(
    source: DataSource,
    number: int,
    shape: tuple[int, int, int],
    *,
    seed: int,
    mixed: tuple[int, int | None],
    world_size: int,
) -> Source:
    """A source of the mixture. `shape`: frames of a clip, clips of a batch, objects of a clip, unless the source says.
    `mixed`: shards that are mixed at a time, and lanes."""
    if source.kind not in {"video", "image"}:
        raise ValueError(f"Source {source.name!r} is of kind {source.kind!r}; use video or image.")
    if source.max_step < 1:
        raise ValueError(f"Source {source.name!r}: max_step={source.max_step}; a clip's frames are 1 or more apart.")
    video = source.kind == "video"
    num_frames, batch, max_objects = shape[0] if video else 1, source.batch or shape[1], source.max_objects or shape[2]
    shards = ShardSet(source.shards, name=source.name)
    shards.index  # noqa: B018  (opened here, so that a server's is fetched, and what is wrong with it told, once)
    if shards.all_single(num_frames):
        videos = _Videos(None, shards.counts, None, len(shards))
    else:
        videos = _long_enough(source, shards, num_frames)
    # a few long videos feed many ranks: each then comes as often in an epoch as it has windows, at most
    counts, samples = videos.counts, videos.samples
    total, needed = int(counts.sum()), batch * world_size
    if samples < needed:
        raise ValueError(
            f"{source.name!r} has {samples} samples of {num_frames} frames, but {world_size} ranks of {batch} clips need "
            f"{needed} for one step. Use fewer ranks, a smaller batch, or more data."
        )
    times = -(-needed // total)
    window, lanes = mixed
    lanes = (LANES if window and np.count_nonzero(counts) >= 4 * LANES else 0) if lanes is None else lanes
    key = (seed, number, zlib.crc32(source.name.encode()))
    order = SpreadOrder(counts * times, seed=key, lanes=lanes) if lanes else Order(counts * times, seed=key, window=window)
    sizes = (batch, max_objects, num_frames, source.max_step)
    return Source(source.name, video, shards, videos.usable, counts, videos.windows, order, *sizes)


@dataclass(frozen=True)
class _Videos:
    """Which videos of a source a phase uses, as `Source` has it."""

    usable: NDArray[np.int64] | None
    counts: NDArray[np.int64]
    windows: NDArray[np.int32] | None
    samples: int  # of usable videos


def _long_enough(source: DataSource, shards: ShardSet, num_frames: int) -> _Videos:
    """Videos with a stretch of so many frames. Raises ValueError where there is none."""
    frames, windows, counts = shards.videos()
    enough = frames >= num_frames
    usable = None
    # where each video's windows lie in its shard
    firsts = np.cumsum(windows) - windows
    shard_of = np.repeat(np.arange(len(counts)), counts)
    firsts -= (np.cumsum(shards.counts) - shards.counts)[shard_of].astype(firsts.dtype)
    whole = bool((windows == 1).all()) and bool(enough.all())
    where = None if whole else np.stack([firsts, windows], axis=1).astype(np.int32)
    if not enough.all():
        if not enough.any():
            raise ValueError(
                f"No clip of {source.name!r} ({source.shards}) has {num_frames} frames; the longest has {frames.max()}. "
                f"Use a phase with fewer frames, or build shards from longer videos (window={num_frames} or more)."
            )
        left_out = int((~enough).sum())
        _LOG.info("%s: %d of %d videos have fewer than %d frames: left out", source.name, left_out, len(frames), num_frames)
        # only videos that are long enough are counted and ordered
        usable = np.flatnonzero(enough)
        counts = np.bincount(shard_of[enough], minlength=len(counts))
    return _Videos(usable, counts, where, int(windows[enough].sum()))
