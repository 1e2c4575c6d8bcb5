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


class SpreadOrder:
    """An endless order like `Order`, for runs of hundreds of ranks: samples are cut into `lanes` parts for good, position p
    is drawn from part p mod `lanes`, and each part is shuffled anew in each epoch as a whole.

    Shards are put in a random order first, so that a part is a random choice of shards, and ranks that draw at the same time
    draw from different ones. Where the samples that all ranks draw at a time divide `lanes`, the ranks of a machine meet
    the same parts in each epoch, which its disk may hold. A pure function of its arguments; nothing is kept.
    """

    def __init__(self, counts: NDArray[np.int64], *, seed: tuple[int, ...], lanes: int) -> None:
        shards = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
        self.shards, self.ends = shards, np.cumsum(counts[shards])
        self.total, self.lanes = int(self.ends[-1]), lanes
        self.key = 0
        for number in seed:
            self.key = _mix(self.key ^ number)

    def at(self, position: int) -> tuple[int, int, int]:
        """(epoch, shard, number within the shard) of the sample at this position.

        >>> order = SpreadOrder(np.array([20, 31]), seed=(0,), lanes=8)
        >>> len({order.at(p)[1:] for p in range(51)}), {order.at(p)[0] for p in range(51, 102)}
        (51, {1})
        """
        epoch = position // self.total
        lane = position % self.lanes
        # the part's share of this epoch: so many positions of the epoch are congruent to `lane`
        begin = epoch * self.total
        start = begin % self.lanes
        nth = (position - begin - (lane - start) % self.lanes) // self.lanes
        each, longer = divmod(self.total, self.lanes)
        size = each + ((lane - start) % self.lanes < longer)
        # where it begins: parts before it, of which some are longer by one
        wrapped = max(start + longer - self.lanes, 0)
        first = lane * each + min(max(lane - start, 0), longer - wrapped) + min(lane, wrapped)
        # shuffled as a whole
        number = first + shuffled(nth, size, key=_mix(_mix(self.key ^ epoch) ^ lane))
        slot = int(np.searchsorted(self.ends, number, side="right"))
        return epoch, int(self.shards[slot]), number - (int(self.ends[slot - 1]) if slot else 0)


_ROUNDS = 6
_WORD = (1 << 64) - 1


def _mix(value: int) -> int:
    """64 bits from 64 bits, each of which depends on all (SplitMix64's finalizer; Steele et al., 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


def shuffled(number: int, size: int, *, key: int) -> int:
    """Place `number` of a pseudo-random permutation of range(size), computed and not stored: a Feistel network over the next
    even number of bits, walked until it falls below `size` (Black and Rogaway, 2002).

    >>> sorted(shuffled(n, 10, key=3) for n in range(10))
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half = max(((size - 1).bit_length() + 1) // 2, 1)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(key ^ (turn << 58) ^ right) & mask)
        number = left << half | right
        if number < size:
            return number


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
