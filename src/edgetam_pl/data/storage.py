"""Bytes from anywhere, and files to servers: local files by offset, http(s), s3, gs and all of fsspec, with retries."""

from __future__ import annotations

import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from edgetam_pl.data import http
from edgetam_pl.io.errors import BadSampleError, Cause
from edgetam_pl.io.files import regular

_LOG = logging.getLogger(__name__)

ATTEMPTS = 4
"""A remote read is tried this often before its shard counts as unreadable."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled before each further one, and shortened at random by up to a half, so that the
workers of a run do not all come back at once."""
_OPEN_FILES = 32
_jitter = random.Random()  # its own: the training's random numbers do not depend on the network
_given_up: set[str] = set()  # servers of this process that did not answer in ATTEMPTS attempts: one each from now on
_no_ranges: set[str] = set()  # servers that sent more than they were asked for, which was told


SLOWEST = 1e6
"""Bytes a second below which a connection counts as silent."""


class _Limits:
    seconds = 30.0  # of one attempt, beside the time that its bytes take


def set_timeout(seconds: float) -> None:
    """How long a server may take to answer a read of this process before that counts as failed (data.read_timeout)."""
    _Limits.seconds = seconds


def is_remote(address: str) -> bool:
    """Is this a URL (or a chain such as simplecache::s3://...) rather than a path?"""
    return "://" in address or "::" in address


def join(folder: str, name: str) -> str:
    """The address of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def read(address: str, *, size: int = 0) -> bytes:
    """A whole file, of about `size` bytes where that is more than a few. Raises BadSampleError(SHARD_UNREADABLE) where
    `read_range` does."""
    if is_remote(address):
        return _retry(address, lambda fs, path: _within(size, lambda: fs.cat_file(path)))
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
        data = _retry(address, partial(_cat_range, address, offset, size))
    else:
        try:
            data = os.pread(_opened(address, os.getpid()).fileno(), size, offset)
        except OSError as error:
            raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address}: {error.strerror}") from error
    if len(data) != size:
        raise BadSampleError(Cause.SHARD_TRUNCATED, f"{address} ends at byte {offset + len(data)}; {offset + size} expected")
    return data


def _cat_range(address: str, offset: int, size: int, fs: Any, path: str) -> bytes:
    if http.plain(fs):
        seconds = _Limits.seconds + size / SLOWEST
        data = http.get_range(path, offset, offset + size, seconds=seconds, whole=lambda: _tell_once(address, size))
        if data is not None:
            return data
    data = _within(size, lambda: fs.cat_file(path, start=offset, end=offset + size))
    if len(data) > size:  # a server that ignores ranges sends everything
        _tell_once(address, size)
        data = data[offset : offset + size]
    return data


def ends_at(address: str, size: int) -> bool:
    """Is there a file of exactly `size` bytes? Raises BadSampleError where a server does not say."""
    if not is_remote(address):
        try:
            return Path(address).stat().st_size == size
        except OSError:
            return False
    try:
        last = _retry(address, lambda fs, path: _within(2, lambda: fs.cat_file(path, start=size - 1, end=size + 1)))
    except BadSampleError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    return len(last) == 1


def put(file: Path, address: str) -> None:
    """Send a file to a server; it is there whole or not at all.

    Raises:
        ValueError: it cannot be written there, for good.
    """
    try:
        size = file.stat().st_size
        _retry(address, lambda fs, path: _within(size, lambda: fs.put_file(str(file), path) or b""))
    except BadSampleError as error:
        raise ValueError(
            f"{error.message}. It cannot be written; what is there stays. Correct that and give the same command again: it "
            f"continues."
        ) from error


def listed(place: str) -> set[str]:
    """Names of the files directly under a server's place; none where there is no such place."""

    def names(fs: Any, path: str) -> bytes:
        fs.invalidate_cache()  # other processes write there
        return "\n".join(str(name).rsplit("/", 1)[-1] for name in fs.ls(path, detail=False)).encode()

    try:
        return set(_retry(place, lambda fs, path: _within(0, lambda: names(fs, path))).decode().split("\n"))
    except BadSampleError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return set()
        raise


def _tell_once(address: str, asked: int) -> None:
    server = _server(address)
    if server not in _no_ranges:
        _no_ranges.add(server)
        _LOG.warning(
            "%s ignores ranges: it sent %s from its beginning where %d bytes of it were asked for, and so for each sample. "
            "Training goes on, slowly; use a server that knows ranges, or copy the shards to a disk.",
            *(server or address, address, asked),
        )


def _server(address: str) -> str:
    return urlsplit(address.rpartition("::")[2]).netloc


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: str, process: int) -> io.FileIO:
    """A file of this process (a forked one must not share it), closed when it has not been read for long."""
    return io.FileIO(regular(path))


def _retry(address: str, action: Callable[[Any, str], bytes]) -> bytes:
    """Call `action(filesystem, path)`, which keeps to the limit of time, again after a pause when the network fails."""
    from fsspec.core import url_to_fs  # slow to import, and local shards do not need it

    wait, server = FIRST_WAIT, _server(address)
    attempts = 1 if server in _given_up else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            fs, path = url_to_fs(address)
            data = bytes(action(fs, path))
            _given_up.discard(server)
            return data
        except (FileNotFoundError, PermissionError) as error:
            raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address}: {error}") from error
        except ImportError as error:
            raise ValueError(f"{address} needs another package: {error}") from error
        except Exception as error:  # each file system has failures of its own; none may end the run, none is hidden
            why = f"{type(error).__name__} {error}"
            if attempt == attempts:
                _given_up.add(server)
                raise BadSampleError(Cause.SHARD_UNREADABLE, f"{address}: {why} in {attempts} attempts") from error
            pause = wait * _jitter.uniform(0.5, 1)
            _LOG.warning("%s: attempt %d of %d failed (%s); the next in %.1f s", address, attempt, attempts, why, pause)
            time.sleep(pause)
            wait *= 2
    raise AssertionError("unreachable")


def _within(size: int, action: Callable[[], Any]) -> Any:
    """The result of `action`, which moves so many bytes, in a thread of its own: some file systems have a limit of minutes,
    some have none.

    Raises:
        TimeoutError: it took longer; the thread is left to itself.
    """
    seconds = _Limits.seconds + size / SLOWEST
    outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def act() -> None:
        try:
            outcome.put((action(), None))
        except BaseException as error:  # noqa: BLE001  (raised below)
            outcome.put((None, error))

    threading.Thread(target=act, daemon=True, name="remote read").start()
    try:
        value, error = outcome.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:.1f} s (data.read_timeout)") from None
    if error is not None:
        raise error
    return value
