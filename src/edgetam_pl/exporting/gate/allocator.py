"""Memory that is freed stays with the process while a gate runs, so that the next tensor needn't be cleared anew."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of glibc's malloc.h."""

LARGEST_DYNAMIC = 32 << 20
"""The mapping threshold to which glibc goes by itself in a process with large blocks."""


@contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, glibc hands no freed block back to the system; elsewhere nothing changes.

    A full-size attention map is 60 MB. glibc maps blocks above 32 MB one by one, and the system clears each page when it is
    first written, which takes longer than the softmax that writes it.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    assert library is not None
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, 1 << 16)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_DYNAMIC)
        library.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_DYNAMIC)
        library.malloc_trim(0)
