"""What lies in folders and lists, in order and in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))


def lines_of(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"There is no list at {path}.")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def some_of(names: Sequence[str]) -> str:
    """The first few, in words."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
