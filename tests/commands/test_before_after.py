"""`edgetam before-after`: what it refuses before it evaluates. The command itself is run by the guide's test."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetam_pl.commands import before_after
from edgetam_pl.commands.main import main


@pytest.mark.parametrize(("before", "after"), [("random", "no/such.pt"), ("no/such.pt", "random")])
def test_a_checkpoint_that_is_not_there_is_said_before_the_first_evaluation(
    before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(before_after, "run", lambda cfg: pytest.fail("it has begun"))
    words = ["model=toy", "root=toy:0:1", "dataset=toy", "--out", str(tmp_path)]
    assert main(["before-after", before, after, *words]) == 2
    assert "There is no checkpoint no/such.pt" in capsys.readouterr().err
