"""Batches for training, resumable to the sample: which sample is drawn is a pure function of (seed, source, position).

A video is drawn first, each once an epoch, then one of its starts, each as likely as any other. All ranks draw the same
source in all batches of an optimiser step, from one order that is cut among them: they stay in step and in the same epoch.
Workers only share the work: their number changes nothing, and a run is resumed by counting batches.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from edgetam_pl.config import DataConfig
from edgetam_pl.data import node_cache, storage
from edgetam_pl.data.sampling import Schedule
from edgetam_pl.data.sources import open_source
from edgetam_pl.data.steps import PREFETCH, BrokenDataError, Skip, Steps, WorkerBatch, describe
from edgetam_pl.io.errors import Cause, ExplainedError
from edgetam_pl.io.folders import some_of
from edgetam_pl.io.processes import begin_worker, fresh
from edgetam_pl.types import VideoBatch

_LOG = logging.getLogger(__name__)

_SHOWN = 5
"""Skips of one cause that are logged in full."""


class WorkerDiedError(ExplainedError):
    """A data worker was killed or crashed. The message says what to try."""


class ShardLoader:
    """An iterable of exactly `steps` VideoBatches. It has no length: an epoch is what the trainer counts, not the data.

    `skips` counts what was left out, by cause. `state_dict` is the number of batches handed out; a loader that is given it
    continues with the next one.
    """

    def __init__(
        self, steps: Steps, *, count: int, workers: int, max_skips: float, prepare: Callable[[], None] | None = None
    ) -> None:
        self.steps, self.count, self.workers, self.max_skips = steps, count, workers, max_skips
        self.prepare = prepare  # called in each worker before it reads
        self.skips: Counter[str] = Counter()
        for source in steps.sources:
            self.skips.update(source.shards.skipped)
            for note in source.shards.notes:
                _LOG.warning("%s: left out: %s", source.name, note)
        self.drawn = 0  # samples tried
        self.skipped = 0  # of these
        self.batches = 0
        self._recent: list[Skip] = []
        self._unreadable: dict[str, None] = {}  # shards, in the order in which they were given up
        self._start = 0

    def __iter__(self) -> Iterator[VideoBatch]:
        start, self._start = self._start, 0
        self.batches = start
        for made in self._worker_batches(start):
            if isinstance(made, BrokenDataError):
                raise made
            self._count(made)
            self.batches += 1
            yield made.batch.unpack()  # before the worker is asked for more: its memory will be written again
        if self._unreadable:
            _LOG.warning("Shards that could not be read, and were left out: %s.", some_of(list(self._unreadable)))

    def _worker_batches(self, start: int) -> Iterator[WorkerBatch | BrokenDataError]:
        """What the workers hand over, in order.

        Raises:
            WorkerDiedError: one of them was killed.
        """
        batches = DataLoader(
            self.steps,
            batch_size=None,
            sampler=range(start, self.count),
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            multiprocessing_context=fresh(__name__) if self.workers else None,
            collate_fn=_unchanged,
            worker_init_fn=partial(_begin_worker, self.prepare),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the training's random numbers do not depend on the loader
        )
        try:
            yield from batches
        except (EOFError, ConnectionError, RuntimeError) as error:
            if not self.workers:
                raise
            raise WorkerDiedError(
                f"A data worker was killed or crashed ({error or type(error).__name__}). Systems kill processes when "
                f"memory is short: use fewer workers (data.workers, now {self.workers}); in a container give shared "
                f"memory for {PREFETCH + 2} batches a worker (docker: --shm-size)."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: batches handed out, and what each source has given on all ranks."""
        return self.state_at(self.batches)

    def state_at(self, batches: int) -> dict[str, Any]:
        """The state after so many batches: those that were trained on may be fewer than those handed out."""
        names = [source.name for source in self.steps.sources]
        consumed = self.steps.consumed(batches)
        return {"batches": batches, "world_size": self.steps.world_size, "consumed": consumed, "sources": names}

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
            names = [source.name for source in self.steps.sources]
            consumed, before = list(state["consumed"]), state.get("sources", names)
            if before != names:  # another mixture: each source goes on where it was, a new one begins
                consumed = [dict(zip(before, consumed)).get(name, 0) for name in names]
            self.steps.origin, self.steps.since = consumed, batches

    def _count(self, made: WorkerBatch) -> None:
        self.drawn += made.drawn
        for skip in made.skips:
            self.skips[str(skip.cause)] += 1
            if skip.cause is Cause.SHARD_UNREADABLE:
                self._unreadable[skip.shard] = None
            self._recent = [*self._recent[-63:], skip]
            if self.skips[str(skip.cause)] <= _SHOWN:
                _LOG.warning("skipped: %s: %s", skip.cause, skip.message)
        self.skipped += len(made.skips)
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
    accumulate: int = 1,
    views: Sequence[int] = (),
) -> ShardLoader:
    """The loader of one phase on one rank.

    Args:
        steps: batches of the phase.
        accumulate: batches of one optimiser step, which are all of one source (as in SAM 2's training).
        views: other sides at which frames are drawn once more (`VideoBatch.views`).

    Raises:
        ValueError: no source, no shards, none long enough, or fewer samples than ranks need for one batch.
    """
    if not cfg.sources:
        raise ValueError("The data have no source; add one to data.sources.")
    if cfg.augment.where not in {"worker", "device"}:
        raise ValueError(f"data.augment.where={cfg.augment.where}: augmentation is done by the worker or on the device.")
    if not cfg.augment.zoom >= 0:
        raise ValueError(f"data.augment.zoom={cfg.augment.zoom}: the largest relative growth; 0 leaves sizes as they are.")
    if steps < 1:
        raise ValueError(f"The loader was asked for {steps} batches; a phase needs at least one.")
    if cfg.read_timeout <= 0:
        raise ValueError(f"data.read_timeout is {cfg.read_timeout}; give the seconds that a server has for an answer.")
    if cfg.read_ahead < 0 or (cfg.lanes or 0) < 0:
        raise ValueError(f"data.read_ahead={cfg.read_ahead}, data.lanes={cfg.lanes}: give numbers from 0.")
    _prepare(cfg)
    window = cfg.shuffle if train else 0
    lanes = cfg.lanes if train else 0
    sources = [
        open_source(
            source, number, (num_frames, batch, max_objects), seed=seed, mixed=(window, lanes), world_size=world_size
        )
        for number, source in enumerate(cfg.sources)
    ]
    schedule = Schedule([source.weight for source in cfg.sources], seed=seed, steps=steps, together=accumulate)
    augmentation = cfg.augment if train else None
    dataset = Steps(
        sources,
        schedule,
        image_size,
        augmentation,
        cfg.augment.reverse,
        seed,
        rank,
        world_size,
        train,
        antialias=cfg.antialias,
        read_ahead=cfg.read_ahead,
        views=tuple(views),
    )
    return ShardLoader(
        dataset,
        count=steps,
        workers=cfg.workers,
        max_skips=cfg.max_skips,
        prepare=partial(_prepare, replace(cfg, sources=[])),
    )


def _prepare(cfg: DataConfig) -> None:
    """What reads of this process need to know."""
    storage.set_timeout(cfg.read_timeout)
    node_cache.set_cache(cfg.cache, cfg.cache_gb)


def _unchanged(made: Any) -> Any:
    """Instead of PyTorch's collation: batches come whole. Named, since worker processes have to find it."""
    return made


def _begin_worker(prepare: Callable[[], None] | None, worker: int) -> None:
    begin_worker()
    if prepare is not None:
        prepare()
    cv2.setNumThreads(1)
