"""A stand-in for the shipped weights, so that what surrounds them can be tested without them."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgetam_pl as et
from edgetam_pl.commands import ship
from edgetam_pl.io import shipped
from edgetam_pl.weights import save_official

SCORES = {
    "davis16_dev-1-click": {"jf": 58.8, "j": 60.0, "f": 57.6, "sequences": 10, "objects": 10},
    "davis16_dev-mask": {"jf": 62.2, "j": 63.0, "f": 61.4, "sequences": 10, "objects": 10},
}


def put_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ship random weights into `folder`, and make it the package's; returns the run's file they were made from."""
    run = folder / "run" / "weights.pt"
    run.parent.mkdir(parents=True)
    save_official(et.load_model(shipped.NAME, "random"), run)
    ship.ship(
        run, folder, scores=SCORES, beside={"first mask repeated": {"davis16_dev-mask": SCORES["davis16_dev-1-click"]}}
    )
    for name in ("WEIGHTS", "FACTS", "CARD"):
        monkeypatch.setattr(shipped, name, folder / getattr(shipped, name).name)
    return run


def take_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a copy of the package without the shipped weights."""
    monkeypatch.setattr(shipped, "WEIGHTS", folder / "nothing" / "lite.pt")
