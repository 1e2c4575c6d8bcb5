"""Processes that begin with nothing but the modules they need, leave signals to whoever started them, and end with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

from edgetam_pl.io.atomic import alive
from edgetam_pl.io.stop import SIGNALS

LAUNCHER = "EDGETAM_LAUNCHER"
"""Environment variable: the process that started this one, and that it ends with."""


def fresh(module: str) -> BaseContext:
    """Where to start processes that have loaded `module`, which costs seconds once, and done nothing else.

    They are not forked from this process: OpenCV's threads, CUDA and loggers would be copied without their threads, and the
    first warp would hang. Clusters send their signals to every process of a job; these ones are deaf to SIGNALS from their
    beginning, so that the process they work for can finish what it needs them for.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    # A mask is inherited, a handler is not. The tracker clears a part of the mask when it starts, so it starts first.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_worker() -> None:
    """In a process that multiprocessing started: leave signals to the parent, and end when it ends, however it does.

    The kernel's own means (`end_with`) would watch the fork server instead of the process that asked for this one.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.join,), daemon=True, name="watches the parent").start()


@contextmanager
def pool(
    count: int, context: BaseContext, *, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end with this one. When the block ends with an error or a signal, they are not waited for."""
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(initializer, initargs))
    with executor:
        try:
            yield executor
        except BaseException:
            for process in list((executor._processes or {}).values()):
                process.kill()
            raise


def _begin(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    begin_worker()
    if initializer is not None:
        initializer(*initargs)


def follow_launcher() -> None:
    """End with the launcher that started this process (torchrun, Lightning, a sweep), should somebody kill it."""
    given = os.environ.get(LAUNCHER, "")
    if given.isdigit() and int(given) != os.getpid():
        if os.getppid() == int(given):
            end_with(int(given))
        elif not alive(int(given)):
            os._exit(1)  # it was killed before this process came so far
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())


def end_with(parent: int) -> None:
    """End this process, kill -9, as soon as its parent is gone: nobody would collect its result, and it would hold the
    memory, the devices and the folder that the next start needs."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_end_after, args=(_watch, parent), daemon=True, name="watches the launcher").start()
    if os.getppid() != parent:
        os._exit(1)  # it was gone before


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)


def _end_after(wait: Callable[..., object], *arguments: object) -> None:
    wait(*arguments)
    os._exit(1)
