"""Offline pieces of a run that was disturbed hold every line that it logged; WANDB_MODE=disabled leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import training
from wandb_files import history

from edgetam_pl.io import stop
from edgetam_pl.training import fit
from edgetam_pl.training.curves import STEP
from edgetam_pl.types import VideoBatch

PHASE = "{frames:2,steps:3,batch:1,distil:false}"


def service() -> int:
    """The process of W&B's service."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def steps(out: Path) -> list[int]:
    return [int(line[STEP]) for line in history(out / "wandb") if STEP in line]


def test_a_signal_to_every_process_of_a_job_costs_no_line(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SLURM signals W&B's service too, which ends at once. The lines before, this step's and those after the next start are
    in the pieces, and W&B's own step is the run's, so that the pieces fit together."""
    cfg = training(shards, tmp_path, "logger=wandb", phases=PHASE)
    original = fit.Distillation.training_step

    def training_step(self: fit.Distillation, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        if self.steps_done == 1:
            for process in (service(), os.getpid()):
                os.kill(process, signal.SIGTERM)
            os.waitpid(service(), 0)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Distillation, "training_step", training_step)
        with pytest.raises(SystemExit) as end:
            fit.run(cfg)
    assert end.value.code == stop.TRY_AGAIN
    assert "logged again" in capsys.readouterr().out
    assert steps(tmp_path) == [1, 2]
    fit.run(cfg)
    assert steps(tmp_path) == [1, 2, 3]
    assert [int(line["_step"]) for line in history(tmp_path / "wandb") if STEP in line] == [1, 2, 3]
    pieces = sorted(str(path) for path in (tmp_path / "wandb").glob("offline-run-*"))
    said = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", *pieces], capture_output=True, text=True, check=True
    )
    assert f"Would sync {len(pieces)} run(s)" in said.stdout + said.stderr


def test_a_disabled_logger_writes_no_run(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fit.run(training(shards, tmp_path, "logger=wandb", phases="{frames:2,steps:1,batch:1,distil:false}"))
    assert (tmp_path / "curves.jsonl").is_file()
    assert not (tmp_path / "wandb").exists()
