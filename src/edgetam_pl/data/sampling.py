"""Which sample is drawn when: pure functions of (seed, source, position), so that ranks agree and a run can be resumed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
        # the epoch, and in it the window of shards that the place falls into
        epoch, place = divmod(position, self.total)
        shards, ends = self._epoch(epoch)
        step = self.window or len(shards)
        number = int(np.searchsorted(ends[step - 1 :: step], place, side="right"))
        first = number * step
        begin = int(ends[first - 1]) if first else 0
        # shuffled within the window
        if self.window:
            end = int(ends[min(first + step, len(ends)) - 1])
            place = begin + int(self._window(epoch, number, end - begin)[place - begin])
        # the shard that holds it
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
    """Which source each batch is drawn from, the same on every rank, and how often each was drawn before. `together` batches
    in a row, those of one optimiser step, are of one source."""

    def __init__(self, weights: list[float], *, seed: int, steps: int, together: int = 1) -> None:
        share = np.cumsum(weights) / np.sum(weights)
        drawn_at = np.random.default_rng((seed, 42)).random(-(-steps // together))
        of_step = np.minimum(np.searchsorted(share, drawn_at, side="right"), len(weights) - 1)
        self.sources = np.repeat(of_step, together)[:steps].astype(np.int16)
        drawn = self.sources[None] == np.arange(len(weights))[:, None]
        self.before = np.concatenate([np.zeros((len(weights), 1), np.int64), np.cumsum(drawn, axis=1)], axis=1)
