"""What takes long and is the same everywhere is made once a session, whichever worker of `make test` needs it first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetam_pl.io.atomic import atomic_path
from edgetam_pl.io.locks import folder_lock

PLACE = "EDGETAM_TEST_SESSION"
"""Environment variable: the folder that all workers of this session share."""


def share_session(factory: pytest.TempPathFactory) -> None:
    """Name the folder that this session's workers share: the one in which pytest gives each worker its own."""
    base = factory.getbasetemp()
    os.environ[PLACE] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once")


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this session, filled by `make`, which is given an empty folder; who comes later waits, and reads.

    It belongs to all tests: copy what is to be changed.
    """
    place = Path(os.environ[PLACE])
    with folder_lock(place, name=f".{name}.lock"):
        if not (place / name).exists():
            with atomic_path(place / name) as draft:
                draft.mkdir()
                make(draft)
    return place / name
