"""Bytes from anywhere: local files by offset, http(s), s3, gs and every other fsspec address, with retries."""

from __future__ import annotations

import io
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.files import regular

ATTEMPTS = 4
"""A remote read is tried this often before its shard counts as unreadable."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled before each further one."""
_OPEN_FILES = 32


def is_remote(address: str) -> bool:
    """Is this a URL (or a chain such as simplecache::s3://...) rather than a path?"""
    return "://" in address or "::" in address


def join(folder: str, name: str) -> str:
    """The address of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def read(address: str) -> bytes:
    """A whole file. Raises BadSampleError(SHARD_UNREADABLE) where `read_range` does."""
    if is_remote(address):
        return _retry(address, lambda fs, path: fs.cat_file(path))
    try:
        return regular(address).read_bytes()
    except OSError as error:
        raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address}: {error.strerror}") from error


def read_range(address: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`.

    Raises:
        BadSampleError: SHARD_UNREADABLE when it cannot be opened or the network fails for good; SHARD_TRUNCATED when the
            file ends before offset + size.
    """
    if is_remote(address):
        data = _retry(address, lambda fs, path: fs.cat_file(path, start=offset, end=offset + size))
        if len(data) > size:  # a server that ignores ranges sends everything
            data = data[offset : offset + size]
    else:
        try:
            data = os.pread(_opened(address, os.getpid()).fileno(), size, offset)
        except OSError as error:
            raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address}: {error.strerror}") from error
    if len(data) != size:
        raise BadSampleError(Cause.SHARD_TRUNCATED, f"{address} ends at byte {offset + len(data)}; {offset + size} expected")
    return data


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: str, process: int) -> io.FileIO:
    """A file of this process (a forked one must not share it), closed when it has not been read for long."""
    return io.FileIO(regular(path))


def _retry(address: str, action: Any) -> bytes:
    """Call `action(filesystem, path)`, again after a pause when the network fails."""
    from fsspec.core import url_to_fs  # slow to import, and local shards do not need it

    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fs, path = url_to_fs(address)
            return bytes(action(fs, path))
        except (FileNotFoundError, PermissionError) as error:
            raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address}: {error}") from error
        except ImportError as error:
            raise ValueError(f"{address} needs another package: {error}") from error
        except Exception as error:  # each file system has failures of its own; none may end the run, none is hidden
            if attempt == ATTEMPTS:
                raise BadSampleError(
                    Cause.SHARD_UNREADABLE, f"{address}: {type(error).__name__} {error} in {ATTEMPTS} attempts"
                ) from error
            time.sleep(wait)
            wait *= 2
    raise AssertionError("unreachable")
