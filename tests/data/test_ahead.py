"""What is read ahead is what was asked for, in order, once, and its errors are those of who takes it."""

from __future__ import annotations

import threading

import pytest

from edgetam_pl.data import ahead as module
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
    rest = range(10, 14)
    assert list(ahead.take(rest, {number: make(number) for number in rest})) == [key * 10 for key in rest]
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


def test_a_thread_waits_for_the_next_task_and_none_waits_for_anothers() -> None:
    """A stuck read holds its own thread alone; the others are used again."""
    stuck, names = threading.Event(), set[str]()
    ahead: ReadAhead[int] = ReadAhead()
    wanted = {"stuck": lambda: int(stuck.wait(30))}
    for number in range(20):
        action = {number: lambda: names.add(str(threading.get_ident())) or 7}
        assert list(ahead.take([number], {**wanted, **action})) == [7]
    stuck.set()
    assert list(ahead.take(["stuck"], wanted)) == [1]
    assert len(names) < 20


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 0.01)
    threads: list[threading.Thread] = []
    ahead: ReadAhead[bool] = ReadAhead()
    for number in range(3):
        assert list(ahead.take([number], {number: lambda: threads.append(threading.current_thread()) is None})) == [True]
        threads[-1].join(30)
    assert not any(thread.is_alive() for thread in threads)
