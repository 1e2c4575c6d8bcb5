"""Batch number k of one rank, for any k: the samples that belong there, and what replaces broken ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from edgetam_pl.config import AugmentConfig
from edgetam_pl.data import sample as schema
from edgetam_pl.data.ahead import ReadAhead
from edgetam_pl.data.augment import UNCHANGED, draw
from edgetam_pl.data.clips import Video, choose
from edgetam_pl.data.collate import PackedBatch, Slots, collate
from edgetam_pl.data.index import Entry
from edgetam_pl.data.render import Clip
from edgetam_pl.data.sample import Header
from edgetam_pl.data.sampling import Order, Schedule, SpreadOrder
from edgetam_pl.data.shards import ShardSet
from edgetam_pl.data.storage import is_remote
from edgetam_pl.io.errors import BadSampleError, Cause, ExplainedError

MAX_REPLACEMENTS = 32
"""So many samples in a row may be broken before the run stops."""
PREFETCH = 2
"""Batches that a worker makes ahead."""


@dataclass(frozen=True)
class Skip:
    """A sample that was left out."""

    cause: Cause
    shard: str
    message: str


@dataclass(frozen=True)
class Drawn:
    """A clip, and the samples that it stands in for."""

    clip: Clip
    skips: tuple[Skip, ...]
    tried: int


@dataclass(frozen=True)
class WorkerBatch:
    """What a worker hands over: a batch, and the samples that were left out for it."""

    batch: PackedBatch
    skips: tuple[Skip, ...]
    drawn: int  # samples tried

    def pin_memory(self) -> WorkerBatch:
        return WorkerBatch(self.batch.pin_memory(), self.skips, self.drawn)


class BrokenDataError(ExplainedError):
    """Too many samples cannot be used. The message names causes, shards and the cure."""


@dataclass(frozen=True)
class Source:
    """A set of shards as one phase reads it."""

    name: str
    video: bool
    shards: ShardSet
    usable: NDArray[np.int64] | None  # numbers of the videos that are long enough; None: all
    counts: NDArray[np.int64]  # usable videos of each shard
    windows: NDArray[np.int32] | None  # (V, 2): each video's first sample in its shard, and how many; None: one each
    order: Order | SpreadOrder  # of usable videos; it may hold each several times an epoch
    batch: int
    max_objects: int
    num_frames: int
    max_step: int

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """Usable videos before each shard."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def remote(self) -> bool:
        """Are the shards on a server?"""
        return any(map(is_remote, self.shards.addresses[:1]))

    def entries(self, shard: int, number: int) -> list[Entry]:
        """The windows of usable video `number` of a shard, in the order of frames."""
        before = int(self.before[shard])
        video = before + number % int(self.counts[shard])
        video = video if self.usable is None else int(self.usable[video])
        first, count = (number % int(self.counts[shard]), 1) if self.windows is None else self.windows[video]
        return [self.shards.entry(shard, int(first) + i) for i in range(int(count))]


@dataclass(eq=False)
class Steps(Dataset[Any]):
    """Batch number k of one rank, for any k: what makes the loader resumable."""

    sources: list[Source]
    schedule: Schedule
    image_size: int
    augmentation: AugmentConfig | None
    reverse: float  # probability that a clip is played backwards
    seed: int
    rank: int
    world_size: int
    train: bool
    origin: list[int] = field(init=False)  # samples that each source had given before step `since`
    since: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # shards of this process that cannot be opened, and why
    slots: Slots | None = None  # of a worker process
    antialias: bool = False  # how frames are shrunk
    read_ahead: int = 0  # samples that are read from servers before they are needed
    ahead: ReadAhead[Drawn] | None = field(init=False, default=None)  # of this process
    views: tuple[int, ...] = ()  # other sides at which frames are drawn once more

    def __post_init__(self) -> None:
        self.origin = [0] * len(self.sources)

    def __getitem__(self, step: int) -> WorkerBatch | BrokenDataError:
        if self.slots is None and get_worker_info() is not None:
            # a worker is asked for the next batch when one of its batches is taken out: of it there are then one being
            # unpacked, PREFETCH - 1 waiting and one being written; one slot more is a reserve
            self.slots = Slots(PREFETCH + 2)
        try:
            return self.batch_at(step)
        except BrokenDataError as error:
            return error  # raised by the loader, without the traceback of a worker around it

    def batch_at(self, step: int) -> WorkerBatch:
        """The batch of this step, and the samples that were left out for it.

        Raises:
            BrokenDataError: too many samples in a row cannot be used.
        """
        which, first, stride = self._place(step)
        source = self.sources[which]
        if self.slots is not None:
            self.slots.advance()
        # the clips of this step, still encoded
        skips: list[Skip] = []
        clips: list[Clip] = []
        drawn = 0
        for made in self._drawn(step):
            clips.append(made.clip)
            skips += made.skips
            drawn += made.tried
        while True:
            try:
                batch = collate(
                    clips,
                    image_size=self.image_size,
                    source=source.name,
                    slots=self.slots,
                    antialias=self.antialias,
                    views=self.views,
                )
                return WorkerBatch(batch, tuple(skips), drawn)
            except BadSampleError as error:  # rare: what the checksums cannot see
                b = error.place
                skips.append(Skip(error.cause, clips[b].shard, error.message))
                if len(skips) >= MAX_REPLACEMENTS:
                    raise _exhausted(source, skips) from error
                made = self._clip(which, first + b + stride * len(skips), stride)
                clips[b] = made.clip
                skips += made.skips
                drawn += made.tried

    def _place(self, step: int) -> tuple[int, int, int]:
        """Which source a step draws from, where in its order this rank's share begins, and how far apart the shares of one
        rank are."""
        which = int(self.schedule.sources[step])
        source = self.sources[which]
        turn = int(self.schedule.before[which, step] - self.schedule.before[which, self.since])
        stride = source.batch * self.world_size
        return which, self.origin[which] + turn * stride + self.rank * source.batch, stride

    def _drawn(self, step: int) -> Iterator[Drawn]:
        """The clips of a step. Those of servers are read by threads, and with them those of this worker's next steps."""
        which, first, stride = self._place(step)
        source = self.sources[which]
        if not (source.remote and self.read_ahead > 0):
            yield from (self._clip(which, position, stride) for position in range(first, first + source.batch))
            return
        if self.ahead is None:
            self.ahead = ReadAhead()
        worker = get_worker_info()
        apart = worker.num_workers if worker else 1
        steps = range(step, min(step + apart * (1 + -(-self.read_ahead // source.batch)), len(self.schedule.sources)), apart)
        wanted: dict[Hashable, Callable[[], Drawn]] = {}
        for number in steps:
            of, begin, far = self._place(number)
            for position in range(begin, begin + self.sources[of].batch):
                wanted[of, position] = partial(self._clip, of, position, far)
        yield from self.ahead.take([(which, position) for position in range(first, first + source.batch)], wanted)

    def consumed(self, step: int) -> list[int]:
        """Samples each source has given on all ranks before this step."""
        turns = self.schedule.before[:, step] - self.schedule.before[:, self.since]
        return [
            origin + int(turn) * source.batch * self.world_size
            for origin, turn, source in zip(self.origin, turns, self.sources)
        ]

    def _clip(self, which: int, position: int, stride: int) -> Drawn:
        """The clip at this position of the source's order. A broken one is replaced by the one that this place of the batch
        would hold next: never a random one, so that ranks stay in step and a resumed run meets the same."""
        source, skips = self.sources[which], list[Skip]()
        for tried in range(MAX_REPLACEMENTS):
            place = position + tried * stride
            _, shard, number = source.order.at(place)
            address = source.shards.addresses[shard]
            try:
                if address in self.unreadable:
                    raise BadSampleError(Cause.SHARD_UNREADABLE, self.unreadable[address])
                return Drawn(self._read(source, which, place, shard, number), tuple(skips), tried + 1)
            except BadSampleError as error:
                if error.cause is Cause.SHARD_UNREADABLE:
                    self.unreadable[address] = error.message  # tried once, with retries, and not for every sample
                skips.append(Skip(error.cause, address, error.message))
        raise _exhausted(source, skips)

    def _read(self, source: Source, which: int, place: int, shard: int, number: int) -> Clip:
        entries = source.entries(shard, number)
        # one generator a sample, seeded by its place in the run, for the clip first and its augmentation next
        rng = np.random.default_rng((self.seed, which, place))
        bytes_of = _Windows(source.shards, shard, entries)
        chosen = choose(
            Video(
                entries[0].key,
                [(entry.position or 0, entry.frames) for entry in entries],
                bytes_of.header,
                [entry.hidden for entry in entries],
                bytes_of.read,
            ),
            rng,
            num_frames=source.num_frames,
            max_objects=source.max_objects,
            reverse=self.reverse if source.video else 0.0,
            train=self.train,
            max_step=source.max_step,
        )
        header, selection = chosen.header, chosen.selection
        images = tuple(bytes_of.images[chosen.places[t]] for t in selection.frames)
        for t, image in zip(selection.frames, images):
            schema.check_image(image, header, t)
        augmentation, on_device = UNCHANGED, False
        if self.augmentation is not None:
            augmentation = draw(rng, self.augmentation, num_frames=source.num_frames, video=source.video)
            on_device = self.augmentation.where == "device"
        return Clip(header, selection, images, augmentation, on_device, source.shards.addresses[shard])


class _Windows:
    """Headers and frames of a video's windows, each read once: a window's frames and its header in one request, where it
    was known without the header which frames they are."""

    def __init__(self, shards: ShardSet, shard: int, entries: list[Entry]) -> None:
        self.shards, self.shard, self.entries = shards, shard, entries
        self.headers: dict[int, Header] = {}
        self.images: dict[tuple[int, int], bytes] = {}

    def header(self, window: int) -> Header:
        if window not in self.headers:
            self.headers[window] = self._header(self.shards.read(self.shard, self.entries[window], ["json"]))
        return self.headers[window]

    def read(self, places: list[tuple[int, int]]) -> None:
        """Frames, as (window, frame in it), and headers that are not here yet."""
        for window, run in groupby(places, key=lambda place: place[0]):
            names = {schema.image_suffix(t): (window, t) for _, t in run}
            header = [] if window in self.headers else ["json"]
            found = self.shards.read(self.shard, self.entries[window], [*names, *header])
            self.images |= {at: found[name] for name, at in names.items()}
            if header:
                self.headers[window] = self._header(found)

    @staticmethod
    def _header(found: dict[str, bytes]) -> Header:
        return schema.decode_header(found["json"])


def _exhausted(source: Source, skips: list[Skip]) -> BrokenDataError:
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
