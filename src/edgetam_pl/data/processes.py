"""Processes that begin with nothing but the modules they need."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import BaseContext


def fresh(module: str) -> BaseContext:
    """Where to start processes that have loaded `module`, which costs seconds once, and done nothing else.

    They are not forked from this process: OpenCV's threads, CUDA and loggers would be copied without their threads, and the
    first warp would hang.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context
