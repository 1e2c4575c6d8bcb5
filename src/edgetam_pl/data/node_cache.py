"""What a machine keeps of servers' shards on its own disk: the index of each data set, and members that were read.

All ranks and workers of the machine share it. Members are kept by `diskcache`: many processes, a limit on the whole, the
ones that were stored longest ago leave first. fsspec's caches keep whole files, or serve one process, and know no limit.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgetam_pl.data import storage
from edgetam_pl.data.index_file import HEAD, size_of
from edgetam_pl.io.atomic import atomic_path

_LOG = logging.getLogger(__name__)

_PIECE = 1 << 24
"""Bytes of an index that are fetched at once, by `_STREAMS` threads."""
_STREAMS = 8
_PARTS = 16
"""Databases that share the members, so that processes seldom wait for one another."""


class _Settings:
    folder = ""
    gigabytes = 0.0
    told: bool = False  # that the folder cannot be written to


def set_cache(folder: str, gigabytes: float) -> None:
    """Keep members in this folder of a local disk, at most so many 10^9 bytes (data.cache, data.cache_gb); empty: none.

    Raises:
        ValueError: diskcache is not installed, or the limit is no positive number.
    """
    if folder:
        if not gigabytes > 0:
            raise ValueError(
                f"data.cache_gb is {gigabytes}; give the gigabytes that the cache may take, or data.cache='' for none."
            )
        try:
            import diskcache  # noqa: F401
        except ModuleNotFoundError as error:
            raise ValueError("data.cache needs diskcache; install it with: pip install 'edgetam-pl[cache]'.") from error
    _Settings.folder, _Settings.gigabytes, _Settings.told = folder, gigabytes, False


def get(key: str) -> bytes | None:
    """A member that was kept."""
    if not _Settings.folder or (cache := _members(_Settings.folder, _Settings.gigabytes)) is None:
        return None
    with _worked_around():
        return cache.get(key)
    return None


def put(key: str, data: bytes) -> None:
    """Keep a member. A folder that is full or cannot be written to is told of once, and left alone from then on."""
    if _Settings.folder and not _Settings.told and (cache := _members(_Settings.folder, _Settings.gigabytes)) is not None:
        with _worked_around():
            cache.set(key, data)


def drop(key: str) -> None:
    """Forget a member that turned out to be damaged."""
    if _Settings.folder and (cache := _members(_Settings.folder, _Settings.gigabytes)) is not None:
        with _worked_around():
            cache.delete(key)


@lru_cache(maxsize=2)
def _members(folder: str, gigabytes: float) -> Any:
    """The cache of this process; None where it cannot be opened, which is told."""
    import diskcache

    with _worked_around():
        path = Path(folder).expanduser() / "members"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return diskcache.FanoutCache(
            str(path), shards=_PARTS, timeout=1, size_limit=int(gigabytes * 1e9), eviction_policy="least-recently-stored"
        )
    return None


@contextmanager
def _worked_around() -> Iterator[None]:
    """What goes wrong with the cache's folder is told once and costs a read from the server, never the run."""
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not _Settings.told:
            _LOG.warning(
                "The cache in %s (data.cache) cannot be used (%s): what is not in it is read from the server each time.",
                _Settings.folder,
                error,
            )
        _Settings.told = True


def local_index(address: str, *, version: str) -> Path:
    """A copy of a server's index on this machine's disk, fetched by the first process that asks for it.

    Args:
        version: of the data set; the copy of another version is another file.

    Raises:
        BadSampleError: it cannot be read.
        UnfitIndexError: it is no index.
        OSError: there is no folder to put it in.
    """
    own = Path(tempfile.gettempdir()) / f"edgetam-{os.getuid()}"
    for folder in [Path(_Settings.folder).expanduser() / "index"] * bool(_Settings.folder) + [own]:
        path = folder / f"{version}.bin"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.getuid() and folder == own:
                raise PermissionError(f"{folder} belongs to somebody else")
            with (folder / f"{version}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the other processes of this machine wait here for the first one
                if not path.exists():
                    _fetch(address, path)
            return path
        except OSError as error:
            if folder == own:
                raise
            _LOG.warning("The index of %s cannot be kept in %s (%s); %s is used.", address, folder, error, own)
    raise AssertionError("unreachable")


def _fetch(address: str, path: Path) -> None:
    total = size_of(storage.read_range(address, 0, HEAD), name=address)
    with atomic_path(path) as draft, draft.open("wb") as file, ThreadPoolExecutor(_STREAMS) as pool:

        def piece(at: int) -> None:
            os.pwrite(file.fileno(), storage.read_range(address, at, min(_PIECE, total - at)), at)

        list(pool.map(piece, range(0, total, _PIECE)))
