"""A signal outside the steps: while a run starts, while a checkpoint is written, between two phases."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from trainings import losses, training

from edgetam_pl import weights
from edgetam_pl.io.stop import TRY_AGAIN, Stopped
from edgetam_pl.training import fit

PHASES = "{frames:2,steps:2,batch:1,distil:false},{frames:3,steps:1,batch:1,distil:false}"


def signalled_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: signal.Signals) -> None:
    """The signal comes at the beginning of the first call of a function."""
    original = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        os.kill(os.getpid(), number)
        return original(*given, **named)

    monkeypatch.setattr(owner, name, call)


def test_a_run_that_is_stopped_while_it_starts_leaves_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled_in(monkeypatch, fit, "build_module", signal.SIGUSR1)
    with pytest.raises(Stopped) as end:
        fit.run(training(shards, tmp_path / "run", phases=PHASES))
    assert end.value.code == TRY_AGAIN
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert left <= {"run.lock"}, "nobody holds it any more"


@pytest.mark.parametrize(
    ("owner", "name", "kept", "done"),
    [
        (fit, "make_logger", [], []),
        (weights, "write", ["phase1-step000001.ckpt", "phase1-step000002-stopped.ckpt"], [1, 2]),
        (fit.PhaseDone, "on_train_end", ["phase1-done.ckpt", "phase1-step000001.ckpt", "phase1-step000002.ckpt"], [1, 2]),
    ],
)
def test_a_signal_between_the_steps_is_acted_upon_at_the_next_safe_point(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kept: list[str], done: list[int]
) -> None:
    """When Lightning's handlers would have been in force, or none."""
    cfg = training(shards, tmp_path, "checkpoint_every=1", phases=PHASES)
    signalled_in(monkeypatch, owner, name, signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        fit.run(cfg)
    assert end.value.code == TRY_AGAIN
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*")) == kept
    assert sorted(losses(tmp_path)) == done
    fit.run(cfg)
    assert sorted(losses(tmp_path)) == [1, 2, 3]
    assert (tmp_path / "weights.pt").is_file()
