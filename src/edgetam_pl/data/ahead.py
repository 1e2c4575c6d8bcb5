"""Reads what will be needed while other work is done, a thread for each thing: a server's answer is not waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_KEPT = 30.0
"""Seconds that a thread without work waits for some."""


class ReadAhead(Generic[T]):
    """Results that were asked for before they are taken. Threads end with the process, and are not waited for."""

    def __init__(self) -> None:
        self.begun: dict[Hashable, Future[T]] = {}
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def take(self, keys: Sequence[Hashable], wanted: Mapping[Hashable, Callable[[], T]]) -> Iterator[T]:
        """The results of `keys`, in order, each once. What is `wanted` is begun first, the rest forgotten."""
        self.begun = {key: future for key, future in self.begun.items() if key in wanted}
        for key, action in wanted.items():
            if key not in self.begun:
                self.begun[key] = self._begin(action)
        for key in keys:
            yield self.begun.pop(key).result()

    def _begin(self, action: Callable[[], T]) -> Future[T]:
        """Hand it to a thread that waits, or to a new one: none waits for another's."""
        future: Future[T] = Future()
        self._asked.put((future, action))
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=_work, args=(self._asked, self._idle), daemon=True, name="read ahead").start()
        return future


def _work(asked: SimpleQueue[tuple[Future[Any], Callable[[], Any]]], idle: threading.Semaphore) -> None:
    while True:
        try:
            future, action = asked.get(timeout=_KEPT)
        except Empty:
            if idle.acquire(blocking=False):
                return
            continue  # something has just been handed over
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001  (raised where the result is taken)
            future.set_exception(error)
        del future, action  # what was read belongs to who takes it
        idle.release()
