"""The order of a large source: complete epochs, fixed parts, and no trace of how the shards lie."""

from __future__ import annotations

import numpy as np
import pytest

from edgetam_pl.data.sampling import SpreadOrder, shuffled


@pytest.mark.parametrize(("counts", "lanes"), [([20, 31, 0, 7], 8), ([3] * 7, 512), ([1] * 100, 64), ([5, 9], 3), ([1], 4)])
def test_each_epoch_has_each_sample_once(counts: list[int], lanes: int) -> None:
    order, total = SpreadOrder(np.array(counts), seed=(3, 4), lanes=lanes), sum(counts)
    samples = {(shard, n) for shard, count in enumerate(counts) for n in range(count)}
    for epoch in range(5):
        drawn = [order.at(position) for position in range(epoch * total, (epoch + 1) * total)]
        assert {at[0] for at in drawn} == {epoch}
        assert {at[1:] for at in drawn} == samples
        assert len(drawn) == total


@pytest.mark.parametrize("step", [8, 32, 64])
def test_a_machine_meets_its_own_samples_in_each_epoch(step: int) -> None:
    """One, four or eight machines of 8 ranks: what a machine drew in the first epoch it draws in the next,
    but for the few samples by which an epoch that is no multiple of the parts shifts them."""
    order, machines = SpreadOrder(np.full(300, 21), seed=(1,), lanes=64), max(step // 8, 1)
    total = 300 * 21
    share = step // machines
    held = [set(), set()]
    for position in range(2 * total):
        if position % step // share == 0:
            held[position // total].add(order.at(position)[1:])
    assert len(held[0] & held[1]) > 0.9 * len(held[0])


def test_ranks_that_draw_together_draw_from_many_shards_and_order_keeps_no_trace_of_them() -> None:
    order = SpreadOrder(np.full(400, 25), seed=(2,), lanes=64)
    first = [order.at(position)[1] for position in range(400)]
    by_chance = np.random.default_rng(0).integers(0, 400, 400)
    assert len(set(first)) > 0.85 * len(set(by_chance.tolist()))
    places = np.array(
        [[order.at(epoch * 10_000 + n)[1] * 25 + order.at(epoch * 10_000 + n)[2] for n in range(10_000)] for epoch in (0, 1)]
    )
    ranks = np.argsort(places, axis=1)
    assert abs(np.corrcoef(ranks[0], ranks[1])[0, 1]) < 0.04  # when a sample is drawn says nothing of when it is next
    assert abs(np.corrcoef(ranks[0], np.arange(10_000))[0, 1]) < 0.04  # nor does where it lies


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000])
def test_a_computed_permutation_is_one_and_depends_on_its_key(size: int) -> None:
    one, two = ([shuffled(n, size, key=key) for n in range(size)] for key in (1, 2))
    assert sorted(one) == sorted(two) == list(range(size))
    assert size < 10 or one != two


def test_each_place_is_as_likely_as_any_other() -> None:
    counts = np.zeros((20, 20))
    for key in range(4000):
        for number in range(20):
            counts[number, shuffled(number, 20, key=key * 7919)] += 1
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert 0.75 < chi_square / (19 * 19) < 1.25  # chance alone: 1 with a standard deviation of 0.07
