"""SLURM jobs through submitit: submitted with what was asked, trained, and put back into the queue when stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetam_pl.commands.compose import composed
from edgetam_pl.config import TrainConfig
from edgetam_pl.training import fit, launch
from edgetam_pl.training.preemption import TRY_AGAIN

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
