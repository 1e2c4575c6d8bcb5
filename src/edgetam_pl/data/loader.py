"""Batches for training, resumable to the sample: which sample is drawn is a pure function of (seed, source, position).

All ranks draw the same source at a step, from one order that is cut among them, so they stay in step and in the same
epoch. Workers only share the work: their number changes nothing, and a run is resumed by counting batches.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from edgetam_pl.config import AugmentConfig, DataConfig, DataSource
from edgetam_pl.data import augment
from edgetam_pl.data import sample as schema
from edgetam_pl.data.clips import choose
from edgetam_pl.data.collate import Clip, PackedBatch, Slots, collate
from edgetam_pl.data.faults import BadSampleError, Cause
from edgetam_pl.data.shards import ShardSet
from edgetam_pl.types import VideoBatch

_LOG = logging.getLogger(__name__)

STAND_INS = 32
"""So many samples in a row may be broken before the run stops."""
_PREFETCH = 2
"""Batches that a worker makes ahead."""
_SHOWN = 5
"""Skips of one cause that are logged in full."""


# ------------------------------------------------------------------------------------------------------------- order


class Order:
    """The endless order in which a source's samples are drawn: epoch after epoch, each one complete and shuffled anew.

    Shards are shuffled, then samples within windows of `window` shards, so that neighbours in time lie in few files.
    A pure function of its arguments; nothing is kept but a cache.
    """

    def __init__(self, counts: NDArray[np.int64], *, seed: tuple[int, ...], window: int) -> None:
        self.counts, self.seed, self.window = counts, seed, window
        self.total = int(counts.sum())
        self._epochs: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def at(self, position: int) -> tuple[int, int, int]:
        """(epoch, shard, number within the shard) of the sample at this position.

        >>> order = Order(np.array([2, 3]), seed=(0,), window=64)
        >>> len({order.at(p)[1:] for p in range(5)}), {order.at(p)[0] for p in range(5, 10)}
        (5, {1})
        """
        epoch, place = divmod(position, self.total)
        shards, ends = self._epoch(epoch)
        step = self.window or len(shards)
        number = int(np.searchsorted(ends[step - 1 :: step], place, side="right"))
        first = number * step
        begin = int(ends[first - 1]) if first else 0
        if self.window:
            end = int(ends[min(first + step, len(ends)) - 1])
            place = begin + int(self._window(epoch, number, end - begin)[place - begin])
        slot = int(np.searchsorted(ends, place, side="right"))
        return epoch, int(shards[slot]), place - (int(ends[slot - 1]) if slot else 0)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards in this epoch's order, and where each one ends."""
        if epoch not in self._epochs:
            shards = np.arange(len(self.counts))
            if self.window:
                shards = np.random.default_rng((*self.seed, epoch)).permutation(shards)
            shards = shards[self.counts[shards] > 0]
            _keep(self._epochs, epoch, (shards, np.cumsum(self.counts[shards])))
        return self._epochs[epoch]

    def _window(self, epoch: int, number: int, size: int) -> NDArray[np.int64]:
        """The order within a window of shards."""
        key = (epoch, number)
        if key not in self._windows:
            _keep(self._windows, key, np.random.default_rng((*self.seed, epoch, number, 1)).permutation(size))
        return self._windows[key]


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    while len(cache) > 4:
        cache.popitem(last=False)


class Schedule:
    """Which source each step draws, the same on every rank (training facts 3), and how often each was drawn before."""

    def __init__(self, weights: list[float], *, seed: int, steps: int) -> None:
        share = np.cumsum(weights) / np.sum(weights)
        self.sources = np.searchsorted(share, np.random.default_rng((seed, 42)).random(steps), side="right")
        self.sources = np.minimum(self.sources, len(weights) - 1).astype(np.int16)
        drawn = self.sources[None] == np.arange(len(weights))[:, None]
        self.before = np.concatenate([np.zeros((len(weights), 1), np.int64), np.cumsum(drawn, axis=1)], axis=1)


# ----------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Skip:
    """A sample that was left out."""

    cause: Cause
    shard: str
    message: str


@dataclass(frozen=True)
class _Parcel:
    """What a worker hands over: a batch, and what it met on the way."""

    batch: PackedBatch
    skips: tuple[Skip, ...]
    drawn: int  # samples tried

    def pin_memory(self) -> _Parcel:
        return _Parcel(self.batch.pin_memory(), self.skips, self.drawn)


class BrokenDataError(RuntimeError):
    """Too many samples cannot be used. The message names causes, shards and the cure."""


@dataclass(frozen=True)
class _Source:
    """A set of shards as one phase reads it."""

    name: str
    video: bool
    shards: ShardSet
    usable: NDArray[np.int64] | None  # numbers of the samples that are long enough; None: all
    starts: NDArray[np.int64]  # first usable sample of each shard, in `usable`
    firsts: NDArray[np.int64]  # first sample of each shard
    order: Order
    batch: int
    max_objects: int
    num_frames: int
    too_short: int


class Steps(Dataset[Any]):
    """Batch number k of one rank, for any k: what makes the loader resumable."""

    def __init__(
        self,
        sources: list[_Source],
        schedule: Schedule,
        *,
        image_size: int,
        augmentation: AugmentConfig | None,
        reverse: float,
        seed: int,
        rank: int,
        world_size: int,
        train: bool,
    ) -> None:
        self.sources, self.schedule = sources, schedule
        self.image_size, self.augmentation, self.reverse = image_size, augmentation, reverse
        self.seed, self.rank, self.world_size, self.train = seed, rank, world_size, train
        self.origin = [0] * len(sources)  # samples that each source had given before step `since`
        self.since = 0
        self.dead: dict[str, str] = {}  # shards of this process that cannot be opened
        self.slots: Slots | None = None  # of a worker process

    def __getitem__(self, step: int) -> _Parcel | BrokenDataError:
        if self.slots is None and get_worker_info() is not None:
            self.slots = Slots(_PREFETCH + 2)  # handed over, one being unpacked, one being written
        try:
            return self.parcel(step)
        except BrokenDataError as error:
            return error  # raised by the loader, without the traceback of a worker around it

    def parcel(self, step: int) -> _Parcel:
        """The batch of this step, and what was met on the way."""
        which = int(self.schedule.sources[step])
        source = self.sources[which]
        turn = int(self.schedule.before[which, step] - self.schedule.before[which, self.since])
        stride = source.batch * self.world_size
        first = self.origin[which] + turn * stride + self.rank * source.batch
        skips: list[Skip] = []
        clips: list[Clip] = []
        drawn = 0
        for position in range(first, first + source.batch):
            clip, tried = self._clip(source, which, position, stride, skips)
            clips.append(clip)
            drawn += tried
        while True:
            try:
                batch = collate(clips, image_size=self.image_size, source=source.name, slots=self.slots)
                return _Parcel(batch, tuple(skips), drawn)
            except BadSampleError as error:  # rare: what the checksums cannot see
                b = error.place
                skips.append(Skip(error.cause, source.shards.place, error.message))
                if len(skips) >= STAND_INS:
                    raise _exhausted(source, skips) from error
                clips[b], tried = self._clip(source, which, first + b + stride * len(skips), stride, skips)
                drawn += tried

    def consumed(self, step: int) -> list[int]:
        """Samples each source has given on all ranks before this step."""
        turns = self.schedule.before[:, step] - self.schedule.before[:, self.since]
        return [
            origin + int(turn) * source.batch * self.world_size
            for origin, turn, source in zip(self.origin, turns, self.sources)
        ]

    def _clip(self, source: _Source, which: int, position: int, stride: int, skips: list[Skip]) -> tuple[Clip, int]:
        """The clip at this position of the source's order. Where it is broken, the one that this place of the batch would
        hold next stands in: never a random one, so that ranks stay in step and a resumed run meets the same."""
        for tried in range(STAND_INS):
            place = position + tried * stride
            _, shard, number = source.order.at(place)
            address = source.shards.addresses[shard]
            try:
                if address in self.dead:
                    raise BadSampleError(Cause.SHARD_UNREADABLE, self.dead[address])
                return self._read(source, which, place, shard, number), tried + 1
            except BadSampleError as error:
                if error.cause is Cause.SHARD_UNREADABLE:
                    self.dead[address] = error.message  # asked once, with retries; not again for every sample
                skips.append(Skip(error.cause, address, error.message))
        raise _exhausted(source, skips)

    def _read(self, source: _Source, which: int, place: int, shard: int, number: int) -> Clip:
        if source.usable is not None:
            number = int(source.usable[source.starts[shard] + number] - source.firsts[shard])
        entry = source.shards.entry(shard, number)
        header = schema.decode_header(source.shards.read(shard, entry, ["json"])["json"])
        rng = np.random.default_rng((self.seed, which, place))
        choice = choose(
            header,
            rng,
            num_frames=source.num_frames,
            max_objects=source.max_objects,
            reverse=self.reverse if source.video else 0.0,
            train=self.train,
        )
        names = [schema.image_suffix(t) for t in choice.frames]
        found = source.shards.read(shard, entry, names)
        for t, name in zip(choice.frames, names):
            schema.check_image(found[name], header, t)
        look = augment.AS_IT_IS
        if self.augmentation is not None:
            look = augment.draw(rng, self.augmentation, num_frames=source.num_frames, video=source.video)
        return Clip(header, choice, tuple(found[name] for name in names), look)


def _exhausted(source: _Source, skips: list[Skip]) -> BrokenDataError:
    return BrokenDataError(f"{len(skips)} samples of {source.name!r} in a row cannot be used. {describe(skips)}")


def describe(skips: list[Skip]) -> str:
    """Causes with their counts, the shards concerned, the last message, and the cure."""
    causes = Counter(str(skip.cause) for skip in skips)
    shards = Counter(skip.shard for skip in skips)
    listed = ", ".join(f"{cause} ({count})" for cause, count in causes.most_common())
    named = ", ".join(f"{shard} ({count})" for shard, count in shards.most_common(4))
    return (
        f"Causes: {listed}. Shards: {named}. The last one: {skips[-1].message}. "
        f"Run `edgetam shards verify` on that folder and build the named shards again, or raise data.max_skips."
    )


# ------------------------------------------------------------------------------------------------------------ loader


class ShardLoader:
    """An iterable of exactly `steps` VideoBatches. It has no length: an epoch is what the trainer counts, not the data.

    `skips` counts what was left out, by cause. `state_dict` is the number of batches handed out; a loader that is given it
    continues with the next one.
    """

    def __init__(self, steps: Steps, *, count: int, workers: int, max_skips: float) -> None:
        self.steps, self.count, self.workers, self.max_skips = steps, count, workers, max_skips
        self.skips: Counter[str] = Counter()
        for source in steps.sources:
            self.skips.update(source.shards.skipped)
            for note in source.shards.notes:
                _LOG.warning("%s: left out: %s", source.name, note)
        self.drawn = 0  # samples tried
        self.skipped = 0  # of these
        self.batches = 0
        self._recent: list[Skip] = []
        self._start = 0

    def __iter__(self) -> Iterator[VideoBatch]:
        start, self._start = self._start, 0
        self.batches = start
        loader = DataLoader(
            self.steps,
            batch_size=None,
            sampler=range(start, self.count),
            num_workers=self.workers,
            prefetch_factor=_PREFETCH if self.workers else None,
            multiprocessing_context=_clean_processes() if self.workers else None,
            collate_fn=_same,
            worker_init_fn=_one_thread,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the training's random numbers do not depend on the loader
        )
        for parcel in loader:
            if isinstance(parcel, BrokenDataError):
                raise parcel
            self._count(parcel)
            self.batches += 1
            yield parcel.batch.unpack()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: batches handed out, and what each source has given on all ranks."""
        return {
            "batches": self.batches,
            "world_size": self.steps.world_size,
            "consumed": self.steps.consumed(self.batches),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after `state["batches"]`: exactly, with any number of workers, when the world size is the same. With
        another one the sources go on where they were and the log says so: no sample is lost, but batches differ."""
        batches = int(state["batches"])
        if not 0 <= batches <= self.count:
            raise ValueError(f"The loader is asked to continue after batch {batches}, but has {self.count} in all.")
        self._start = self.batches = batches
        world = state.get("world_size", self.steps.world_size)
        if world != self.steps.world_size:
            _LOG.warning(
                "The data were left at %d ranks and go on at %d: every sample is still drawn once an epoch, but batches are "
                "not those of the uninterrupted run.",
                world,
                self.steps.world_size,
            )
        if "consumed" in state:
            self.steps.origin, self.steps.since = list(state["consumed"]), batches

    def _count(self, parcel: _Parcel) -> None:
        self.drawn += parcel.drawn
        for skip in parcel.skips:
            self.skips[str(skip.cause)] += 1
            self._recent = [*self._recent[-63:], skip]
            if self.skips[str(skip.cause)] <= _SHOWN:
                _LOG.warning("skipped: %s: %s", skip.cause, skip.message)
        self.skipped += len(parcel.skips)
        total = self.skipped
        if total > self.max_skips * max(self.drawn, 100):
            raise BrokenDataError(
                f"{total} of {self.drawn} samples cannot be used, more than the {self.max_skips:.0%} that data.max_skips "
                f"allows. {describe(self._recent)}"
            )


def build_loader(
    cfg: DataConfig,
    *,
    image_size: int,
    num_frames: int,
    batch: int,
    max_objects: int,
    steps: int,
    seed: int,
    rank: int,
    world_size: int,
    train: bool,
) -> ShardLoader:
    """The loader of one phase on one rank.

    Raises:
        ValueError: no source, no shards, none long enough, or fewer samples than ranks need for one batch.
    """
    if not cfg.sources:
        raise ValueError("The data have no source; add one to data.sources.")
    if steps < 1:
        raise ValueError(f"The loader was asked for {steps} batches; a phase needs at least one.")
    sources = [
        _open(
            source,
            number=number,
            num_frames=num_frames,
            batch=source.batch or batch,
            max_objects=source.max_objects or max_objects,
            seed=seed,
            window=cfg.shuffle if train else 0,
            world_size=world_size,
        )
        for number, source in enumerate(cfg.sources)
    ]
    schedule = Schedule([source.weight for source in cfg.sources], seed=seed, steps=steps)
    dataset = Steps(
        sources,
        schedule,
        image_size=image_size,
        augmentation=cfg.augment if train else None,
        reverse=cfg.augment.reverse,
        seed=seed,
        rank=rank,
        world_size=world_size,
        train=train,
    )
    return ShardLoader(dataset, count=steps, workers=cfg.workers, max_skips=cfg.max_skips)


def _open(
    source: DataSource,
    *,
    number: int,
    num_frames: int,
    batch: int,
    max_objects: int,
    seed: int,
    window: int,
    world_size: int,
) -> _Source:
    if source.kind not in {"video", "image"}:
        raise ValueError(f"Source {source.name!r} is of kind {source.kind!r}; use video or image.")
    shards = ShardSet(source.shards, name=source.name)
    video = source.kind == "video"
    wanted = num_frames if video else 1
    lengths = shards.lengths()
    firsts = np.concatenate([[0], np.cumsum(shards.counts)])[:-1]
    enough = lengths >= wanted
    too_short = int((~enough).sum())
    counts, usable, starts = shards.counts, None, firsts
    if too_short:
        if not enough.any():
            raise ValueError(
                f"No clip of {source.name!r} ({source.shards}) has {wanted} frames; the longest has {lengths.max()}. Use a "
                f"phase with fewer frames, or build shards from longer videos (window={wanted} or more)."
            )
        _LOG.info("%s: %d of %d windows have fewer than %d frames: left out", source.name, too_short, len(lengths), wanted)
        usable = np.flatnonzero(enough)
        counts = np.add.reduceat(enough.astype(np.int64), firsts[shards.counts > 0])
        counts = _spread(counts, shards.counts > 0)
        starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    total = int(counts.sum())
    if total < batch * world_size:
        raise ValueError(
            f"{source.name!r} has {total} samples of {wanted} frames, but {world_size} ranks of {batch} clips need "
            f"{batch * world_size} for one step. Use fewer ranks, a smaller batch, or more data."
        )
    seeds = (seed, number, zlib.crc32(source.name.encode()))
    order = Order(counts, seed=seeds, window=window)
    return _Source(source.name, video, shards, usable, starts, firsts, order, batch, max_objects, wanted, too_short)


def _spread(values: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Values at the marked places, zeros elsewhere."""
    out = np.zeros(len(where), np.int64)
    out[where] = values
    return out


def _clean_processes() -> BaseContext:
    """Workers are not forked from this process: OpenCV's threads, CUDA and loggers would come along half dead, and the
    first warp would wait for ever. They are forked from a process that has loaded this module and done nothing else."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _same(parcel: Any) -> Any:
    return parcel


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
