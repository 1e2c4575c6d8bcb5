"""Hashes of texts, and hash and size of a file, or of a folder that counts as one (a checkpoint, a package)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path


def sha256_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 in hex of some lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_of(path: str | Path, *, ignore: Collection[str] = ()) -> str:
    """SHA-256 in hex of a file, or of the contents of all files of a folder, in the order of their paths.

    Args:
        ignore: names of files that do not count, wherever in the folder they lie.

    Raises:
        OSError: the path cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files(Path(path)):
        if file.name in ignore:
            continue
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def bytes_of(path: str | Path) -> int:
    """Size of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in _files(Path(path)))


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
