"""Imported by `edgetam` before everything else: what has to be in force while the slow imports run."""

from __future__ import annotations

import gc
import sys

from edgetam_pl.io import stop

STOPPABLE = ("train", "shards", "evaluate", "export", "trial", "sweep")
"""Commands that go on where they stopped when they are given again."""

TOGETHER = "train"
"""The one of them whose ranks wait for one another."""


if sys.argv[1:2] and sys.argv[1] in STOPPABLE:
    stop.install(together=sys.argv[1] == TOGETHER)
    from edgetam_pl.io.processes import follow_launcher

    follow_launcher()
    gc.disable()  # half a million objects are imported that stay, and are not looked through on the way; see `begun`


def begun() -> None:
    """The slow imports are over: from now on cycles are looked for, and among what comes later alone."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
