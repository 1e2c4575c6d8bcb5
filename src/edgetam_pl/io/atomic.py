"""Files that are there whole or not at all: written under another name, then renamed.

A reader, a crash or a full disk never sees half a file. Leftovers of a killed writer are hidden files that end in `.partial`
before their suffix; a later writer of the same path removes those of processes that are gone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path to write a file or folder to, which becomes `path` when the block ends without an error.

    The temporary path lies beside `path` and keeps its suffix, by which many writers choose a format. A file is flushed to
    the disk before the rename. A folder that is already at `path` is replaced.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield draft
        if draft.is_dir():
            _replace_folder(draft, path)
        else:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    finally:
        _remove(draft)


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


def _replace_folder(draft: Path, path: Path) -> None:
    """Rename a folder over another one: the old one moves aside first, for no system replaces a full folder."""
    old = path.with_name(f".{path.name}.{os.getpid()}.partial.old")
    if path.exists():
        os.replace(path, old)
    os.replace(draft, path)
    _remove(old)


def _remove_leftovers(path: Path) -> None:
    """Drafts of this path whose writer is no longer alive."""
    for draft in path.parent.glob(f".{_escaped(path.stem)}.*.partial{_escaped(path.suffix)}"):
        pid = draft.name[len(path.stem) + 2 :].split(".")[0]
        if pid.isdigit() and not _alive(int(pid)):
            _remove(draft)


def _escaped(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
