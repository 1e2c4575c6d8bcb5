"""Offline pieces of a run that was disturbed hold every line that it logged; WANDB_MODE=disabled leaves nothing."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import wandb
from kills import Kill, Run
from lightning.pytorch.utilities import rank_zero_only
from trainings import SMALL, config, training, words_of
from wandb_files import history

from edgetam_pl.io import stop
from edgetam_pl.io.deaf import MACHINES
from edgetam_pl.training import fit
from edgetam_pl.training.curves import STEP, read_lines
from edgetam_pl.training.wandb_runs import ForgivingLogger, git_state, make_logger, mode, run_record
from edgetam_pl.types import VideoBatch

SHIELDED = sys.platform == "linux" and platform.machine() in MACHINES
PHASE = "{frames:2,steps:3,batch:1,distil:false}"


def service() -> int:
    """The process of W&B's service."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


def steps(out: Path) -> list[int]:
    return [int(line[STEP]) for line in history(out / "wandb") if STEP in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_every_process_of_a_job_costs_no_line(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    """SLURM signals W&B's service too, which hears none; one that is gone is started again. The lines before, this step's
    and those after the next start are in the pieces, and W&B's own step is the run's, so that the pieces fit together."""
    wandb.teardown()  # a service that another test of this process has begun without us hears signals
    cfg = training(shards, tmp_path, "logger=wandb", phases=PHASE)
    original = fit.Distillation.training_step

    def training_step(self: fit.Distillation, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        if self.steps_done == 1:
            os.kill(service(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            if number == signal.SIGKILL:
                os.waitpid(service(), 0)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Distillation, "training_step", training_step)
        with pytest.raises(SystemExit) as end:
            fit.run(cfg)
    assert end.value.code == stop.TRY_AGAIN
    assert ("logged again" in capsys.readouterr().out) == (number == signal.SIGKILL or not SHIELDED)
    assert steps(tmp_path) == [1, 2]
    fit.run(cfg)
    assert steps(tmp_path) == [1, 2, 3]
    assert [int(line["_step"]) for line in history(tmp_path / "wandb") if STEP in line] == [1, 2, 3]
    pieces = sorted(str(path) for path in (tmp_path / "wandb").glob("offline-run-*"))
    said = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", *pieces], capture_output=True, text=True, check=True
    )
    assert f"Would sync {len(pieces)} run(s)" in said.stdout + said.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
def test_a_training_of_which_every_process_is_told_to_stop_logs_all_its_steps(shards: Path, tmp_path: Path) -> None:
    """As SLURM does it, from outside and without asking who is who; and none of them is left."""
    phases = "{frames:2,steps:2000,batch:1,distil:false}"
    words = [*SMALL, *words_of(shards, tmp_path / "run", phases), "model=toy", "stage=toy_video", "logger=wandb"]
    run = Run(
        [word for word in words if not word.startswith("out=") and word != "logger=none"], tmp_path / "run", "lightning"
    )
    told = run.suffer(Kill(signal.SIGTERM, "training", "everybody", 1.0))
    assert told == stop.TRY_AGAIN, run.log.read_text()[-3000:]
    assert run.left() == []
    trained = [int(line[STEP]) for line in read_lines(tmp_path / "run" / "curves.jsonl")]
    assert len(trained) > 1
    assert steps(tmp_path / "run") == trained == [*range(1, len(trained) + 1)]


def test_a_disabled_logger_writes_no_run(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fit.run(training(shards, tmp_path, "logger=wandb", phases="{frames:2,steps:1,batch:1,distil:false}"))
    assert (tmp_path / "curves.jsonl").is_file()
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, "disabled"),
    ],
)
def test_wandbs_own_words_mean_what_they_mean_there(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: str
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert mode() == found
    monkeypatch.delenv("WANDB_DISABLED", raising=False)
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ValueError, match="WANDB_MODE=onlin is unknown; use online, offline or disabled"):
        mode()


def test_files_that_differ_from_the_commit_are_named_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, " M src/a.py\n M src/b.py\n" if "status" in words else "x\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert git_state() == {"commit": "x", "branch": "x", "changed": ["src/a.py", "src/b.py"]}


@pytest.mark.parametrize(
    "content", [b"\0garbage", b"[]", b'{"run_id": 5}', b'{"run_id": "other", "changes": 3}', b"[" * 100_000]
)
def test_other_ranks_neither_read_nor_believe_run_json_and_rank_zero_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    cfg = config("toy", f"out={tmp_path}", "logger=wandb")
    (tmp_path / "run.json").write_bytes(content)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert isinstance(make_logger(cfg, tmp_path), ForgivingLogger)
    assert run_record(cfg, tmp_path)["run_id"] == ""
    assert (tmp_path / "run.json").read_bytes() == content
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    with pytest.raises(ValueError, match=r"run\.json (cannot be read as JSON|does not say of which run it is)"):
        make_logger(cfg, tmp_path)


def test_a_damaged_run_json_beside_the_weights_that_a_run_begins_from_costs_its_group_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "run.json").write_text("{")
    (tmp_path / "before" / "weights.pt").touch()
    cfg = config("toy", f"out={tmp_path / 'now'}", f"weights={tmp_path / 'before' / 'weights.pt'}")
    (tmp_path / "now").mkdir()
    record = run_record(cfg, tmp_path / "now")
    assert record["pipeline"] == f"now-{record['run_id']}"
    assert "before/run.json cannot be read as JSON" in capsys.readouterr().out
