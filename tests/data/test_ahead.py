"""What is read ahead is what was asked for, in order, once, and its errors are those of who takes it."""

from __future__ import annotations

import threading

import pytest

from edgetam_pl.data.ahead import ReadAhead


def test_results_come_in_order_and_what_is_read_ahead_is_read_once() -> None:
    begun: list[int] = []

    def make(number: int):
        def act() -> int:
            begun.append(number)
            return number * 10

        return act

    ahead: ReadAhead[int] = ReadAhead()
    for step in range(5):
        keys = [2 * step, 2 * step + 1]
        wanted = {number: make(number) for number in range(2 * step, 2 * step + 6)}
        assert list(ahead.take(keys, wanted)) == [key * 10 for key in keys]
    assert sorted(begun) == list(range(14))


def test_the_next_ones_are_under_way_while_one_is_waited_for() -> None:
    """The first result waits for the third to have begun: alone, one after the other, they would wait for ever."""
    third = threading.Event()
    actions = {0: lambda: third.wait(30), 1: lambda: True, 2: lambda: bool(third.set()) or True}
    assert list(ReadAhead().take([0, 1], actions)) == [True, True]


def test_an_error_is_raised_where_the_result_is_taken() -> None:
    def broken() -> int:
        raise ValueError("broken")

    ahead: ReadAhead[int] = ReadAhead()
    assert list(ahead.take([0], {0: lambda: 1, 1: broken})) == [1]
    with pytest.raises(ValueError, match="broken"):
        list(ahead.take([1], {1: broken}))
