"""Reads what will be needed while other work is done, a thread for each thing: a server's answer is not waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Results that were asked for before they are taken. Threads end with the process, and are not waited for."""

    def __init__(self) -> None:
        self.begun: dict[Hashable, Future[T]] = {}

    def take(self, keys: Sequence[Hashable], wanted: Mapping[Hashable, Callable[[], T]]) -> Iterator[T]:
        """The results of `keys`, in order, each once. What is `wanted` is begun first, the rest forgotten."""
        self.begun = {key: future for key, future in self.begun.items() if key in wanted}
        for key, action in wanted.items():
            if key not in self.begun:
                self.begun[key] = _begin(action)
        for key in keys:
            yield self.begun.pop(key).result()


def _begin(action: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()

    def act() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001  (raised where the result is taken)
            future.set_exception(error)

    threading.Thread(target=act, daemon=True, name="read ahead").start()
    return future
