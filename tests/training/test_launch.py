"""SLURM jobs through submitit: submitted with what was asked, trained, and put back into the queue when stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.io.resources import CONFIGS, shipped
from edgetam_pl.io.stop import TRY_AGAIN
from edgetam_pl.training import fit, launch

submitit = pytest.importorskip("submitit")


def compose(*words: str) -> TrainConfig:
    return composed(TrainConfig, command="train", overrides=list(words))[0]


class Executor:
    """Takes jobs and runs none."""

    made: Executor  # the last one

    def __init__(self, folder: Path, cluster: str | None) -> None:
        self.folder, self.cluster = folder, cluster
        Executor.made = self

    def update_parameters(self, **arguments: object) -> None:
        self.arguments = arguments

    def submit(self, function: object, cfg: TrainConfig) -> Executor:
        self.function, self.cfg = function, cfg
        return self

    job_id = "17"


def test_a_job_has_a_task_a_gpu_and_is_warned_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(launch, "check_data", lambda cfg: None)
    monkeypatch.setattr(fit, "build_module", lambda cfg: pytest.fail("something was built"))
    words = [
        "launcher=slurm",
        "launcher.nodes=4",
        "trainer=gpu8",
        f"out={tmp_path}",
        "+launcher.arguments.slurm_partition=gpu",
    ]
    fit.run(compose(*words))
    made = Executor.made
    assert {"nodes": 4, "tasks_per_node": 8, "gpus_per_node": 8, "slurm_partition": "gpu"}.items() <= made.arguments.items()
    assert made.arguments["slurm_signal_delay_s"] == launch.SIGNAL_DELAY
    assert (made.cfg.launcher.kind, made.cfg.trainer["devices"], made.cfg.trainer["num_nodes"]) == ("local", 8, 4)
    assert made.function is fit.train_in_job


@pytest.mark.parametrize(("rank", "status", "requeued"), [(0, TRY_AGAIN, True), (1, TRY_AGAIN, False), (0, 1, False)])
def test_f18_a_job_that_was_told_to_stop_goes_back_into_the_queue_once(
    rank: int, status: int, requeued: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = tmp_path / "called"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    class Place:
        global_rank = rank

    def stopped(cfg: TrainConfig) -> Path:
        raise SystemExit(status)

    monkeypatch.setattr(submitit, "JobEnvironment", Place)
    monkeypatch.setattr(fit, "run", stopped)
    with pytest.raises(SystemExit) as end:
        fit.train_in_job(compose())
    assert end.value.code == status
    assert called.exists() == requeued
    if requeued:
        assert called.read_text() == "requeue 17\n"


SRUN = """#!/bin/bash
trap 'echo told >> {told}; exit 75' USR1 TERM
touch {begun}
while true; do sleep 0.05; done
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo "JobState={state} Reason=None"; else echo "$@" >> {told}; fi
"""


def batch(folder: Path, state: str, srun: str = SRUN) -> subprocess.Popen[bytes]:
    """slurm.sh with stand-ins for SLURM's programs."""
    names = {"told": folder / "told.txt", "begun": folder / "begun", "state": state}
    for name, text in {"srun": srun, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text.format(**names))
        (folder / name).chmod(0o755)
    given = {"SLURM_JOB_ID": "17", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NUM_NODES": "1"}
    environment = {**os.environ, **given, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(["bash", str(shipped(CONFIGS) / "launcher" / "slurm.sh")], env=environment)


def begun(folder: Path, shell: subprocess.Popen[bytes]) -> None:
    while not (folder / "begun").exists():
        assert shell.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "state"), [("USR1", "RUNNING"), ("TERM", "RUNNING"), ("TERM", "CANCELLED")])
def test_the_batch_shell_passes_a_signal_on_and_waits(tmp_path: Path, number: str, state: str) -> None:
    """scancel --batch and --signal=B:USR1@... reach the shell alone. A job that somebody cancelled is not put back."""
    shell = batch(tmp_path, state)
    begun(tmp_path, shell)
    shell.send_signal(getattr(signal, f"SIG{number}"))
    assert shell.wait(timeout=30) == TRY_AGAIN
    requeued = ["requeue 17"] if state == "RUNNING" else []
    assert (tmp_path / "told.txt").read_text().splitlines() == ["told", *requeued]


def test_a_job_that_was_told_to_stop_before_it_could_hear_goes_back_into_the_queue(tmp_path: Path) -> None:
    assert batch(tmp_path, "RUNNING", srun="#!/bin/bash\nkill -USR1 $$\n").wait(timeout=30) == TRY_AGAIN
    assert (tmp_path / "told.txt").read_text() == "requeue 17\n"


RANK = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(sys.argv[1], os.environ["RANK"]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_ends_with_75_when_its_ranks_have_saved(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "edgetam_pl.training.torchrun", "--standalone", "--nproc-per-node=2"]
    launcher = subprocess.Popen([*command, str(tmp_path / "rank.py"), str(tmp_path)], stderr=subprocess.PIPE, text=True)
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == TRY_AGAIN, said
    assert "Traceback" not in said
