"""Files that are there whole or not at all: written in a hidden folder beside their place, then renamed.

A reader, a crash or a full disk never sees half a file. What a killed writer leaves is a hidden folder, so that no search by
suffix in the folder around it takes half a file for a whole one; a later writer beside it on the same machine removes it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edgetam_pl.io.errors import DiskFullError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors that mean: no room."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path to write a file or folder to, which becomes `path` when the block ends without an error.

    It has the name of `path`, since many writers choose a format by the suffix. A file is flushed to the disk before the
    rename. A folder that is already at `path` is replaced.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    room = Path(tempfile.mkdtemp(prefix=f"{_OURS}{os.getpid()}.", dir=path.parent))
    try:
        draft = room / path.name
        yield draft
        if draft.is_dir():
            _replace_folder(draft, path, aside=room / f"{path.name}{_REPLACED}")
        else:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def room_for(path: str | Path, size: int) -> Iterator[None]:
    """Write `size` bytes to `path` inside the block. That there is no room is said before, where it can be known, and said
    in these words where the writer finds out (torch's says "unexpected pos").

    Raises:
        DiskFullError: how much is needed and how much is free.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def full(why: str) -> DiskFullError:
        free = shutil.disk_usage(path.parent).free
        return DiskFullError(
            errno.ENOSPC,
            f"No space left on {path.parent}{why}: {path.name} needs {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free. "
            f"Make room and give the same command again; it goes on from the last file that is whole.",
        )

    if shutil.disk_usage(path.parent).free < size:
        raise full("")
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise full(" or in its quota") from error
    except RuntimeError as error:
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise full(" or in its quota") from error


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically; returns the path."""
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> Path:
    """Write a value as JSON atomically; returns the path.

    Raises:
        TypeError: the value holds what JSON cannot say.
    """
    return write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def _replace_folder(draft: Path, path: Path, *, aside: Path) -> None:
    """Rename a folder over another one: the old one moves aside first, for no system replaces a full folder."""
    if path.exists():
        os.replace(path, aside)
    try:
        os.replace(draft, path)
    except OSError:
        if aside.exists():
            os.replace(aside, path)
        raise


_ANYBODYS = ".partial."
_OURS = f"{_ANYBODYS}{socket.gethostname()}."
"""Beginning of the folders that writers on this machine make. Whether those of another machine are alive cannot be told, so
theirs count as abandoned after a day."""
_DAY = 24 * 3600
_REPLACED = ".replaced"
"""End of the name of a folder that a new one takes the place of."""


@cache
def _remove_leftovers(folder: Path) -> None:
    """Drafts whose writer is no longer alive; looked for once a process, since folders of caches hold many files. A folder
    that was moved aside by a writer that died before the new one was there gets its place back."""
    with os.scandir(folder) as entries:
        left = [Path(entry.path) for entry in entries if entry.name.startswith(_ANYBODYS)]
    for room in filter(Path.exists, left):
        if room.name.startswith(_OURS):
            pid = room.name.removeprefix(_OURS).split(".")[0]
            abandoned = pid.isdigit() and not alive(int(pid))
        else:  # of a node, or of a container that had another name
            abandoned = time.time() - room.stat().st_mtime > _DAY
        if not abandoned:
            continue
        for old in room.glob(f"*{_REPLACED}"):
            if not (place := folder / old.name.removesuffix(_REPLACED)).exists():
                os.replace(old, place)
        shutil.rmtree(room, ignore_errors=True)


def alive(pid: int) -> bool:
    """Is there a process of this number on this machine?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
