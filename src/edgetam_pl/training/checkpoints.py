"""Checkpoints are verified before they are used; a damaged one is named, and the newest whole one before it is taken.

Verified: it is a file and a zip whose members match their checksums, holds plain tensors and the parts that a resume needs,
every number in its weights and optimiser states is finite, and names and shapes are those that it was written with.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgetam_pl.io.torch_files import damage_in
from edgetam_pl.training.identity import Identity

CARD = "edgetam_pl"
"""Key of what a checkpoint says of itself."""

PARTS = {
    "state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict,
    "ShardDataModule": dict, "pytorch-lightning_version": str,
}  # fmt: skip
"""What a resume needs beside the card."""

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, KeyError,
    IndexError, AttributeError, TypeError, OverflowError,
)  # fmt: skip
"""What Python's and torch's readers raise over bytes that are not what they should be."""


class DamagedError(ValueError):
    """A checkpoint that cannot be used. The message says why, without the file's name."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, by what it says of itself."""

    path: Path
    phase: int
    """Its index."""
    steps_done: int
    """Optimiser steps over all phases."""
    run_id: str | None = None
    """None: written before runs had an identity; then that is None, too."""
    identity: Identity | None = None
    learning_rate: float | None = None
    """Of all but the encoder, for the next step."""


def newest_whole(folder: Path, say: Callable[[str], object] = print) -> Checkpoint | None:
    """The checkpoint that a run in `folder` goes on from; those that cannot be used are named and passed over.

    Raises:
        ValueError: there are checkpoints, and none of them can be used.
    """
    damaged = []
    for path in sorted(folder.glob("*.ckpt"), key=_age, reverse=True):
        try:
            return verified(path)
        except DamagedError as error:
            damaged.append(path.name)
            say(f"{path.name} is {error}; it is passed over, and the newest whole checkpoint before it is used.")
    if damaged:
        raise ValueError(
            f"None of the {len(damaged)} checkpoints in {folder} can be used ({', '.join(damaged)}). Bring back a whole one "
            "from a copy, or give another folder (out=...) to begin anew."
        )
    return None


def verified(path: Path) -> Checkpoint:
    """A checkpoint after every check.

    Raises:
        DamagedError: it cannot be used.
    """
    check_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise DamagedError(f"damaged (not a checkpoint of plain tensors: {_first_line(error)})") from error
    if not isinstance(content, dict) or not isinstance(card := content.get(CARD), dict):
        raise DamagedError(f"damaged (holds a {type(content).__name__} without {CARD!r}: no checkpoint of a training)")
    for part, kind in PARTS.items():
        if not isinstance(content.get(part), kind):
            raise DamagedError(f"damaged (lacks {part!r})")
    for key in ("phase", "steps_done", "batches_seen"):
        if type(card.get(key)) is not int or not 0 <= card[key] < 1 << 40:
            raise DamagedError(f"damaged (its {key} is {card.get(key)!r})")
    run = card.get("run")
    if run is not None and not _is_run(run):
        raise DamagedError("damaged (what it says of its run cannot be read)")
    if card.get("layout", layout := layout_of(content)) != layout:
        raise DamagedError("damaged (its tensors are not those that it was written with)")
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        if (name := _nonfinite(content.get(part))) is not None:
            raise DamagedError(f"damaged (a number in {part}{name} is not finite)")
    return Checkpoint(
        path,
        card["phase"],
        card["steps_done"],
        run_id=run["id"] if run else None,
        identity=Identity(run["settings"]) if run else None,
        learning_rate=_learning_rate(content["optimizer_states"]),
    )


def check_file(path: Path) -> None:
    """Compare a file of torch.save with its own checksums; nothing in it is unpickled.

    Raises:
        DamagedError: it is no such file, or not whole.
    """
    if not path.is_file():
        kind = "a link to nothing" if path.is_symlink() and not path.exists() else "no file"
        raise DamagedError(f"damaged ({kind})")
    if damage := damage_in(path):
        raise DamagedError(damage)


def layout_of(checkpoint: Mapping[str, Any]) -> str:
    """Digest of names, shapes and dtypes of weights and optimiser states."""
    parts = [_layout(checkpoint.get(part)) for part in ("state_dict", "optimizer_states")]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _age(path: Path) -> tuple[int, float, int]:
    """Newer is greater: by phase and step in the name, which a copy keeps, then by date. Names of others come first."""
    named = re.match(r"phase(\d+)-(?:step(\d+)|(done))", path.name)
    date = path.lstat().st_mtime_ns
    if named is None:
        return -1, 0.0, date
    return int(named[1]), float("inf") if named[3] else float(named[2]), date


def _layout(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, Mapping):
        return sorted((str(name), _layout(inner)) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return [_layout(inner) for inner in value]
    return type(value).__name__


def _nonfinite(value: Any) -> str | None:
    """Where a number that is not finite lies below `value`."""
    if isinstance(value, Tensor):
        return None if not value.is_floating_point() or bool(torch.isfinite(value).all()) else ""
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, one in inner:
        if (found := _nonfinite(one)) is not None:
            return f"[{name}]{found}"
    return None


def _is_run(run: object) -> bool:
    return isinstance(run, dict) and isinstance(run.get("id"), str) and isinstance(run.get("settings"), dict)


def _learning_rate(optimizer_states: list[Any]) -> float | None:
    groups = optimizer_states[0].get("param_groups", []) if optimizer_states else []
    return next((float(group["lr"]) for group in groups if group.get("name") in ("rest", "rest.no_decay")), None)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
